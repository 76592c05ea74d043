/** The arguments and options of commands that change selected executions. */

import { Argument, InvalidArgumentError, Option } from "commander";
import { age } from "#cli/kit/arguments.ts";
import type { CommonOptions } from "#cli/kit/command.ts";
import { type SelectionInput, STATES } from "#operate/selection.ts";

export const SELECTION_ARGUMENTS: readonly Argument[] = [
  new Argument("[execution]", "the id of one execution: {fp:N}:<uuid>"),
];

/** `states` are those that are selected if the command line names none. */
export function selectionOptions(states: string): Option[] {
  return [
    new Option("--flow <id>", "the executions of this flow"),
    new Option("--state <state...>", `executions in these states (default: ${states})`).choices(STATES),
    new Option("--lane <lane>", "executions of this lane"),
    new Option("--task <name>", "executions of this kind, or of the task with this id"),
    new Option("--workflow <name>", "executions of workflows with this name"),
    new Option(
      "--since <time>",
      "executions in their state since this time, or for less than this long: 2h",
    ).argParser(timeBefore),
    new Option("--older-than <age>", "executions in their state for longer: 30m, 2h, 3d").argParser(
      timeBefore,
    ),
    new Option(
      "--reason-contains <text>",
      "executions whose failure or cancellation has this text in its reason",
    ),
  ];
}

/** An age before now, or a time. Returns milliseconds since the epoch. */
function timeBefore(text: string): number {
  if (/^\d+[smhd]?$/.test(text)) return Date.now() - age(text) * 1_000;
  const time = Date.parse(text);
  if (!Number.isNaN(time)) return time;
  throw new InvalidArgumentError(
    "Expected an age such as 15m, 2h or 3d, or a time such as 2026-05-31T08:00Z.",
  );
}

export function selectionInput([execution]: readonly string[], options: CommonOptions): SelectionInput {
  const { flow, state, lane, task, workflow, since, olderThan, reasonContains } = options;
  return {
    ...given("execution", execution),
    ...given("flow", flow),
    ...given("states", state),
    ...given("lane", lane),
    ...given("task", task),
    ...given("workflow", workflow),
    ...given("since_at", since),
    ...given("before_at", olderThan),
    ...given("reason_contains", reasonContains),
  };
}

function given<Name extends string, Value>(
  name: Name,
  value: Value | undefined,
): { readonly [Key in Name]?: Value } {
  return value === undefined ? {} : ({ [name]: value } as { readonly [Key in Name]: Value });
}
