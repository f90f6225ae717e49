r"""A night's run beside its user: when it works, what keeps the machine awake, whom it notifies.

The machine is kept awake while a run works; the display may sleep. A run can keep to certain hours and notify you when
it is done:

    rowmill run job=generate dataset=csv dataset.path=mail.csv \
        'prompt.user=Answer this mail. Mail: {{ text }}' run_name=night \
        schedule.window=00:00-23:59 schedule.stop_after=8h \
        'notify.command=echo $ROWMILL_MESSAGE >> messages.txt'

Outside its window, on battery (``schedule.on_battery=pause``) or while other programs need the machine
(``schedule.max_load``) a run pauses, gives the model's memory back after ``schedule.release_after``, and continues by
itself. ``notify.webhook`` and ``notify.macos`` report the end, failures and pauses, too.

Modules:
awake       The machine is kept awake while a run works; the display may sleep.
guard       The engine as a run uses it: its rows are noted on disk, and rows seen at deaths are isolated.
link        What connects a worker to the supervisor that started it: how it reports, and how it ends.
night       One session's night: the schedule, the machine's sleep and the notices, put together.
notify      Notifications of how a run is going: a command, a webhook, a macOS notification.
power       Clock, power and load of the machine: the one place that asks it, with a fake in the tests.
schedule    When a run works: inside a window of the day, on mains power, while nobody else needs the machine.
supervisor  The supervisor: keeps the model in a child process, watches it, and restarts it when it dies.
"""
