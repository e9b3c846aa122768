"""What users may ask for."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_POST

from . import tasks
from .models import BriefPreference


@require_POST
@transaction.atomic
def brief_now(request: HttpRequest) -> HttpResponse:
    """Send today's brief at once; whoever had none yet gets one each weekday from now on."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    preference, _ = BriefPreference.objects.get_or_create(user=request.user)
    # Only an id travels, and not before the row that the task reads is committed.
    transaction.on_commit(partial(tasks.brief_now.delay, str(preference.pk)))
    return HttpResponse(status=202)
