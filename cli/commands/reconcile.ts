import { Option } from "commander";
import type { CliCommand, CommonOptions, Invocation } from "#cli/kit/command.ts";
import { plural } from "#cli/kit/format.ts";
import { printResult } from "#cli/kit/output.ts";
import { table } from "#cli/kit/table.ts";
import { reasonOf, requirePerson } from "#cli/kit/write-command.ts";
import { type ReconcileReport, reconcileReport } from "#operate/reconcile/sweep.ts";
import { reconcile } from "#operate/write/reconcile.ts";
import { TASK_NAMES, type TaskName } from "#shared/reconcile/task-names.ts";

type TaskReport = ReconcileReport["tasks"][number];

/** A sweep now. The scheduled reconciler goes on meanwhile. */
export const reconcileCommand: CliCommand = {
  name: "reconcile",
  summary:
    "Sweep now, as the reconciler does every minute: expired leases, timeouts, delays, missed messages.",
  options: [
    new Option("--flow <id>", "only the partition of this flow"),
    new Option("--task <name>", "only this task; repeatable. retention runs only if it is named")
      .choices(TASK_NAMES)
      .argParser((text: string, previous: readonly TaskName[] | undefined) => [
        ...(previous ?? []),
        text as TaskName,
      ]),
  ],
  examples: [
    "reconcile --dry-run",
    "reconcile --flow 550e8400-e29b-41d4-a716-446655440000 --task dependencies",
  ],
  exitOne: "some indexes could not be processed, some messages not sent, or the command failed",
  access: "write",
  output: reconcileReport,
  async execute(invocation) {
    const { options, terminal, signal } = invocation;
    const print = (report: ReconcileReport): 0 | 1 => {
      for (const note of report.notes) terminal.note(`  ! ${note}`);
      printResult(terminal, options, report, () => render(report));
      return report.tasks.some(({ state }) => state === "incomplete" || state === "out_of_time") ? 1 : 0;
    };
    if (options.dryRun === true) return print(await sweep(invocation, true));
    if (options.yes !== true) {
      requirePerson(terminal);
      const preview = await sweep(invocation, true);
      for (const line of render(preview)) terminal.note(line);
      if (!(await terminal.confirm("Sweep now?", signal))) {
        terminal.note("nothing was changed");
        return 0;
      }
    }
    return print(await sweep(invocation, false));
  },
};

async function sweep(
  { options, terminal, signal, connect }: Invocation,
  isDryRun: boolean,
): Promise<ReconcileReport> {
  const { flow, task } = options as CommonOptions & { readonly flow?: string; readonly task?: TaskName[] };
  const reason = reasonOf(options);
  const runner = await connect();
  let joined: ReconcileReport | undefined;
  for (;;) {
    const page: ReconcileReport = await runner.run(reconcile, {
      dry_run: isDryRun,
      reason,
      ...(flow === undefined ? {} : { flow }),
      ...(task === undefined ? {} : { tasks: task }),
      ...(joined?.next === undefined ? {} : { cursor: joined.next }),
    });
    joined = join(joined, page);
    // After Ctrl-C, the scheduled reconciler does the rest.
    if (joined.next === undefined || signal.aborted) return withoutCursor(joined);
    const scanned = joined.tasks.reduce((sum, { scanned: own }) => sum + own, 0);
    terminal.progress(`${plural(scanned, "entry").replace("entrys", "entries")} read`);
  }
}

function withoutCursor({ next: _, ...report }: ReconcileReport): ReconcileReport {
  return report;
}

/** Joins two pages: the second goes on with the tasks that the first has not finished. */
function join(earlier: ReconcileReport | undefined, page: ReconcileReport): ReconcileReport {
  if (earlier === undefined) return page;
  const continued = new Map(page.tasks.map((one) => [one.task, one]));
  return {
    ...page,
    tasks: earlier.tasks.map((one) => {
      const next = continued.get(one.task);
      return next === undefined ? one : joinTask(one, next);
    }),
    unreadable: earlier.unreadable + page.unreadable,
    notes: [...earlier.notes, ...page.notes],
  };
}

function joinTask(earlier: TaskReport, later: TaskReport): TaskReport {
  const names = new Set([...Object.keys(earlier.counts), ...Object.keys(later.counts)]);
  return {
    ...later,
    scanned: earlier.scanned + later.scanned,
    counts: Object.fromEntries(
      [...names].map((name) => [name, (earlier.counts[name] ?? 0) + (later.counts[name] ?? 0)]),
    ),
  };
}

/** Names of metrics as words: `LeasesExpired` becomes `leases expired`. */
function words(metric: string): string {
  return metric.replaceAll(/(?<=.)([A-Z])/g, " $1").toLowerCase();
}

function render({ dry_run: isDryRun, tasks, partitions, unreadable }: ReconcileReport): string[] {
  const describe = ({ counts }: TaskReport): string => {
    const some = Object.entries(counts).filter(([name, count]) => count > 0 && name !== "ExecutionsScanned");
    return some.length === 0 ? "nothing" : some.map(([name, count]) => `${count} ${words(name)}`).join(", ");
  };
  return [
    ...table([
      ["task", "state", "read", isDryRun ? "would do" : "did"],
      ...tasks.map((one) => [
        one.task,
        one.state.replaceAll("_", " "),
        one.scanned.toLocaleString("en-US"),
        describe(one),
      ]),
    ]),
    `${plural(partitions, "partition")}${unreadable === 0 ? "" : `, ${plural(unreadable, "record")} unreadable`}` +
      (isDryRun ? ". Nothing was changed" : ""),
  ];
}
