"""Asks a flagd provider over RPC and in-process: flagd.py CLIENT VERSION PROGRAM…"""

import functools, os, subprocess, sys, time

from table import Program, Table, story
from webhook import ADA

CLIENT, VERSION, *PROGRAM = sys.argv[1:]
LANGUAGE = PROGRAM[0].split("/")[-1]
WHO = {"targetingKey": ADA}


def common(table, program):
    """What both modes answer alike."""
    shown = program.shown
    answer = program.ask("boolean", "export", False, WHO)
    table.row("reason", answer["reason"], "TARGETING_MATCH")
    metadata = answer["metadata"]
    if metadata:
        table.row("metadata", f"{metadata['plan']}, {metadata['reason']}", "pro, REASON_PLAN")
    else:
        table.print("metadata", "the provider shows none")
    table.row("integer `projects.limit`", shown("integer", "projects.limit", 0, WHO), "25")
    table.row("float `projects.limit`", shown("float", "projects.limit", 0.5, WHO), "25")
    table.row("unknown flag", shown("boolean", "exports", False, WHO), "false, FLAG_NOT_FOUND")
    table.row("wrong type: a boolean as integer", shown("integer", "export", 7, WHO), "7, TYPE_MISMATCH")
    feature = f"{LANGUAGE}{time.time():.0f}"
    subprocess.run([os.environ["CLIENTS"] + "/catalog", feature], check=True)
    is_announced = lambda: feature in program.ask("changed", "", 0, {})["value"]
    table.after("change event of the catalog names the feature", time.monotonic(), is_announced)


def rpc(table):
    program = Program(*PROGRAM, "rpc")
    shown = program.shown
    story(table, program.allows, f"{LANGUAGE}Rpc")
    common(table, program)
    table.row("integer `projects`", shown("integer", "projects", 0, WHO), "25")
    table.row("string: the granting plan", shown("string", "export", "", WHO), '"pro"')
    table.row("object: the decision", program.ask("object", "export", {}, WHO)["value"]["reason"], "REASON_PLAN")
    table.row("no targeting key", shown("boolean", "export", False, {}), "false, TYPE_MISMATCH")
    malformed = {"targetingKey": "ada@example.com"}
    table.row("malformed targeting key", shown("boolean", "export", False, malformed), "false, TYPE_MISMATCH")
    program.close()


def in_process(table):
    @functools.cache
    def program(user):
        return Program(*PROGRAM, "in-process", f"flagSetId={user}")

    story(table, lambda user: program(user).allows(user), f"{LANGUAGE}Sync")
    common(table, program(ADA))
    stranger = {"targetingKey": "user_stranger"}
    table.row("Ada's flags, asked about another", program(ADA).shown("boolean", "export", True, stranger), "false")
    table.row("no targeting key: all subjects of the flag set", program(ADA).shown("boolean", "export", False, {}), "true")
    nobody = Program(*PROGRAM, "in-process", "color=red")
    table.row("unknown selector", nobody.shown("boolean", "export", False, WHO), "false, FLAG_NOT_FOUND")


rpc(Table(f"{CLIENT}, rpc", VERSION))
in_process(Table(f"{CLIENT}, in-process", VERSION))
