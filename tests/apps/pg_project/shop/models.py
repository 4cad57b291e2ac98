from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=100, db_index=True)
    price = models.IntegerField(default=0)
