"""Rows of the table, and the story that every client is led through."""

import json, subprocess, time

from webhook import send


class Table:
    """What one client is asked."""

    def __init__(self, client, version):
        self.begin = f"| {client} | {version} |"

    def print(self, call, result):
        print(f"{self.begin} {call} | {result} |", flush=True)

    def row(self, call, found, expected):
        self.print(call, found if found == expected else f"FAILED: {found}, not {expected}")

    def after(self, call, begun, holds):
        """Says how many milliseconds after `begun` it holds."""
        while not holds():
            if time.monotonic() - begun > 20:
                return self.print(call, "FAILED: not within 20 s")
            time.sleep(0.001)
        self.print(call, f"after {(time.monotonic() - begun) * 1000:.0f} ms")


def story(table, allowed, name):
    """Two customers are asked in turn, across an upgrade, the end of a paid period, and an ending: no answer is ever
    that of the other. `allowed` says whether a user may export."""
    ada, linus = f"user_{name}Ada", f"user_{name}Linus"
    steps = []

    def in_turn():
        answers = {(user, allowed(user)) for _ in range(20) for user in (ada, linus)}
        steps.append(" and ".join("on" if may else "off" for _, may in sorted(answers)))

    def changed(call, event, user):
        before = allowed(user)  # a web page has one customer at a time: now it has this one
        table.after(call, send(event, user), lambda: allowed(user) != before)

    in_turn()
    changed("upgraded by a webhook", "active", ada)
    in_turn()
    changed("the other one upgraded", "active", linus)
    end = int(time.time()) + 4
    send("canceled", ada, end)
    paid = allowed(ada)
    while allowed(ada) and time.time() < end + 5:
        time.sleep(0.001)
    on_time = "on time" if abs(time.time() - end) <= 1 else f"{time.time() - end} s late"
    table.row("canceled: on while paid, off when the period is over", f"{paid}, off {on_time}", "True, off on time")
    in_turn()
    changed("ended by a webhook", "ended", linus)
    in_turn()
    table.row("both in turn, 20 times at each of these steps", ", ".join(steps),
              "off and off, on and off, off and on, off and off")


class Program:
    """An OpenFeature client in a process of its own: it reads a question a line, and writes its answer, in JSON."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind, flag, default, context):
        print(json.dumps([kind, flag, default, context]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def shown(self, kind, flag, default, context):
        """The answer in words: the value, and what was wrong."""
        answer = self.ask(kind, flag, default, context)
        value = answer["value"]
        value = f"{value:g}" if isinstance(value, float) else json.dumps(value)
        return f"{value}, {answer['error']}" if answer.get("error") else value

    def allows(self, user):
        answer = self.ask("boolean", "export", False, {"targetingKey": user})
        assert not answer.get("error"), answer
        return answer["value"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
