"""Creates and fills the tables, where they are not there yet: tables.py, with the settings' environment."""

import os

import django

ITEMS = 200  # named "item 0" and so on

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    from django.db import connection
    from shop.models import Item

    if Item._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Item)
        Item.objects.bulk_create(Item(name=f"item {i}", price=i) for i in range(ITEMS))
