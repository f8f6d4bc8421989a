"""The map of the product, by resource."""

from __future__ import annotations

from django.urls import path

from dashboard import fragments
from dashboard.api import health, metrics
from dashboard.api import tasks as api_tasks
from dashboard.api import workers as api_workers
from dashboard.controls import acts as act_controls
from dashboard.controls import notes as note_controls
from dashboard.controls import queues as queue_controls
from dashboard.controls import runs as run_controls
from dashboard.controls import tasks as task_controls
from dashboard.controls import tended as tended_controls
from dashboard.controls import thresholds as threshold_controls
from dashboard.controls import workers as worker_controls
from dashboard.views import accounts, acts, audit, feed, notes, overview, search, settings, tasks, workers

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("search/", search.search, name="search"),
    # Tasks
    path("tasks/", tasks.task_list, name="tasks"),
    path("tasks/revoke/", task_controls.revoke, name="tasks-revoke"),
    path("tasks/terminate/", task_controls.terminate, name="tasks-terminate"),
    path("tasks/retry/", run_controls.retry, name="tasks-retry"),
    path("tasks/run/", run_controls.run, name="tasks-run"),
    path("tasks/run/failed/", run_controls.run_failed, name="tasks-run-failed"),
    path("tasks/revoke-stamped/", task_controls.revoke_stamped, name="tasks-revoke-stamped"),
    path("tasks/abort/", task_controls.abort, name="tasks-abort"),
    path("tasks/steps/<int:pk>/withdraw/", task_controls.withdraw, name="tasks-withdraw"),
    path("tasks/revokes/<uuid:pk>/withdraw/", task_controls.withdraw_revoke, name="record-withdraw"),
    path("tasks/<path:uuid>/", tasks.task, name="task"),
    # Workers
    path("workers/", workers.worker_list, name="workers"),
    path("workers/<int:pk>/", workers.worker, name="worker"),
    path("workers/<int:pk>/grow/", worker_controls.grow, name="worker-grow"),
    path("workers/<int:pk>/shrink/", worker_controls.shrink, name="worker-shrink"),
    path("workers/<int:pk>/autoscale/", worker_controls.autoscale, name="worker-autoscale"),
    path("workers/<int:pk>/rate-limit/", worker_controls.rate_limit, name="worker-rate-limit"),
    path("workers/<int:pk>/time-limit/", worker_controls.time_limit, name="worker-time-limit"),
    path("workers/<int:pk>/add-consumer/", worker_controls.add_consumer, name="worker-add-consumer"),
    path("workers/<int:pk>/cancel-consumer/", worker_controls.cancel_consumer, name="worker-cancel-consumer"),
    path("workers/<int:pk>/enable-events/", worker_controls.enable_events, name="worker-enable-events"),
    path("workers/<int:pk>/disable-events/", worker_controls.disable_events, name="worker-disable-events"),
    path("workers/<int:pk>/restart-pool/", worker_controls.restart_pool, name="worker-restart-pool"),
    path("workers/<int:pk>/ping/", worker_controls.ping, name="worker-ping"),
    path("workers/<int:pk>/shutdown/", worker_controls.shutdown, name="worker-shutdown"),
    path("workers/<int:pk>/resize/", workers.resize, name="worker-resize"),
    path("workers/<int:pk>/when-free/", tended_controls.shrink_when_free, name="worker-shrink-when-free"),
    path("workers/<int:pk>/keep-size/", tended_controls.keep_size, name="worker-keep-size"),
    path("workers/<int:pk>/set-again/", tended_controls.set_again, name="worker-set-again"),
    path("workers/<int:pk>/dismiss/", tended_controls.dismiss, name="worker-dismiss"),
    path("workers/<int:pk>/drain/", workers.drain, name="worker-drain"),
    path("workers/<int:pk>/drain/begin/", tended_controls.drain, name="worker-drain-begin"),
    path("workers/<int:pk>/drain/again/", tended_controls.drain_again, name="worker-drain-again"),
    path("workers/<int:pk>/drain/undo/", tended_controls.undo_drain, name="worker-drain-undo"),
    path("workers/<str:command>/many/", act_controls.workers, name="workers-act"),
    # Acts on many
    path("acts/", acts.acts, name="acts"),
    path("acts/<uuid:pk>/", acts.act, name="act"),
    path("acts/<uuid:pk>/confirm/", act_controls.confirm, name="act-confirm"),
    path("acts/<uuid:pk>/withdraw/", act_controls.withdraw, name="act-withdraw"),
    path("acts/<uuid:pk>/stop/", act_controls.stop, name="act-stop"),
    path("acts/<uuid:pk>/standing/withdraw/", act_controls.withdraw_standing, name="act-withdraw-standing"),
    # Queues
    path("queues/purge/", queue_controls.purge, name="queue-purge"),
    # Notes, and when a run counts as slow or stuck
    path("notes/add/", note_controls.add, name="note-add"),
    path("notes/<int:pk>/", notes.note, name="note"),
    path("notes/<int:pk>/change/", note_controls.change, name="note-change"),
    path("notes/<int:pk>/remove/", note_controls.remove, name="note-remove"),
    path("thresholds/", threshold_controls.thresholds, name="thresholds"),
    # What was done, and how fresh the picture is
    path("audit/", audit.audit, name="audit"),
    path("audit/export.<str:form>", audit.export, name="audit-export"),
    path("audit/together/", audit.together, name="control-records"),
    path("audit/<uuid:pk>/", audit.record, name="control-record"),
    path("feed/", feed.feed, name="feed"),
    path("settings/", settings.settings, name="settings"),
    # For programs: Flower's paths
    path("api/workers", api_workers.worker_list, name="api-workers"),
    path("api/tasks", api_tasks.task_list, name="api-tasks"),
    path("api/task/types", api_tasks.task_types, name="api-task-types"),
    path("api/task/info/", api_tasks.task_info, name="api-task-info-of-none"),
    path("api/task/info/<path:uuid>", api_tasks.task_info, name="api-task-info"),
    path("metrics", metrics.metrics, name="metrics"),
    path("healthcheck", health.healthcheck, name="healthcheck"),
    path("healthz", health.healthcheck, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    # People
    path("sign-in/", accounts.sign_in, name="sign-in"),
    path("sign-in/<str:token>/", accounts.sign_in_link, name="sign-in-link"),
    path("sign-out/", accounts.sign_out, name="sign-out"),
    path("users/", accounts.users, name="users"),
    path("users/add/", accounts.user_add, name="user-add"),
    path("users/<int:pk>/", accounts.user_change, name="user-change"),
]

fragments.load()

handler400 = "dashboard.views.errors.bad_request"
handler403 = "dashboard.views.errors.forbidden"
handler404 = "dashboard.views.errors.not_found"
handler500 = "dashboard.views.errors.failed"
