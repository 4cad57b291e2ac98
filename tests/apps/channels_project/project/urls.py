from chat import views
from django.contrib.auth.views import LoginView
from django.urls import path

urlpatterns = [
    path("login/", LoginView.as_view()),
    path("me/", views.me),
    path("tell/<str:room>/", views.tell),
]
