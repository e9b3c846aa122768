"""Where requests go."""

from django.urls import path

from digests.views import brief_now

urlpatterns = [path("me/brief/now", brief_now)]
