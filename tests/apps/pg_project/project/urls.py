from django.urls import path

from shop import views

# /name/ for each public function and coroutine function of the views
urlpatterns = [path(f"{name}/", view, name=name) for name, view in views.ROUTES.items()]
