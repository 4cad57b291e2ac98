from django.urls import path

from shop import mixed

urlpatterns = [path(f"{name}/", view, name=name) for name, view in mixed.ROUTES.items()]
