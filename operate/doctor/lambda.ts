/** The checks of the functions and of their event source mappings. */

import { type CheckResult, type DoctorFinding, found } from "#operate/doctor/finding.ts";
import type { FunctionReport, FunctionReports, Trigger } from "#operate/doctor/functions.ts";

const PARTIAL_BATCHES = "ReportBatchItemFailures";
const STOPPED = new Set(["Disabled", "Disabling", "Deleting"]);

export function checkTriggers({ triggers, untriggered }: FunctionReports): CheckResult {
  const missing = untriggered
    // A ready queue may have containers as its workers.
    .filter(({ kind }) => kind === "completions")
    .map(({ url }) => found("event_source_missing", url, "the queue has no event source mapping"));
  const several = [...Map.groupBy(triggers, ({ queue }) => queue.url)]
    .filter(([, some]) => some.length > 1)
    .map(([url, some]) =>
      found("event_source_several", url, some.map(({ mapping }) => mapping.FunctionArn ?? "").join(", ")),
    );
  return { findings: [...missing, ...several, ...triggers.flatMap(checkMapping)] };
}

function checkMapping({ queue, mapping }: Trigger): DoctorFinding[] {
  const where = `${mapping.UUID ?? ""} of ${queue.url}`;
  const {
    State: state = "",
    StateTransitionReason: reason = "",
    LastProcessingResult: result = "",
  } = mapping;
  const types: readonly string[] = mapping.FunctionResponseTypes ?? [];
  return [
    ...(STOPPED.has(state)
      ? [found("event_source_disabled", where, `its state is ${state}${reason === "" ? "" : ` (${reason})`}`)]
      : []),
    ...(result.startsWith("PROBLEM") ? [found("event_source_failing", where, result)] : []),
    ...(types.includes(PARTIAL_BATCHES)
      ? []
      : [found("event_source_whole_batches", where, `FunctionResponseTypes is [${types.join(", ")}]`)]),
  ];
}

/** AWS recommends a visibility timeout of six function timeouts plus the batching window. */
const VISIBILITY_TIMEOUTS = 6;

export function checkVisibility({ triggers }: FunctionReports): CheckResult {
  const findings = triggers.flatMap(({ queue, mapping, target }): DoctorFinding[] => {
    if (target === undefined) return [];
    const timeout = target.configuration.Timeout ?? 0;
    const least = VISIBILITY_TIMEOUTS * timeout + (mapping.MaximumBatchingWindowInSeconds ?? 0);
    const visibility = Number(queue.attributes.VisibilityTimeout);
    if (visibility >= least) return [];
    return [
      found(
        "visibility_short",
        queue.url,
        `the visibility timeout is ${visibility} s, and the timeout of ${target.name} is ${timeout} s: ${least} s are needed`,
      ),
    ];
  });
  return { findings };
}

export function checkFunctions({ functions, triggers }: FunctionReports): CheckResult {
  const triggered = new Set(triggers.map(({ target }) => target?.name));
  const findings = functions.flatMap(({ name, configuration, recursiveLoop, reserved }): DoctorFinding[] => {
    const { State: state, StateReason: why = "", LastUpdateStatus: update } = configuration;
    const reason = configuration.LastUpdateStatusReason ?? "";
    return [
      ...(state === "Failed" ? [found("function_not_active", name, `its state is Failed: ${why}`)] : []),
      ...(update === "Failed"
        ? [found("function_not_active", name, `its last update failed: ${reason}`)]
        : []),
      ...(reserved === 0 ? [found("function_stopped", name, "its reserved concurrency is 0")] : []),
      // A function that no queue triggers, such as the reconciler, is in no loop.
      ...(triggered.has(name) && recursiveLoop !== undefined && recursiveLoop !== "Allow"
        ? [found("function_loop_detection", name, `RecursiveLoop is ${recursiveLoop}`)]
        : []),
    ];
  });
  return { findings };
}

export function checkConcurrency({ triggers, unreservedConcurrency }: FunctionReports): CheckResult {
  const findings = triggers.flatMap(({ mapping, target }): DoctorFinding[] => {
    if (target === undefined) return [];
    const { name, reserved } = target;
    const maximum = maximumOf(mapping);
    if (maximum === undefined) {
      return reserved === undefined
        ? [
            found(
              "concurrency_unlimited",
              name,
              "neither MaximumConcurrency nor a reserved concurrency is set",
            ),
          ]
        : [];
    }
    return reserved !== undefined && reserved > 0 && reserved < maximum
      ? [
          found(
            "concurrency_reserved_low",
            name,
            `${reserved} are reserved, and MaximumConcurrency is ${maximum}`,
          ),
        ]
      : [];
  });
  const needed = triggers
    .filter(({ target }) => target !== undefined && target.reserved === undefined)
    .reduce((sum, { mapping }) => sum + (maximumOf(mapping) ?? 0), 0);
  if (unreservedConcurrency !== undefined && unreservedConcurrency < needed) {
    findings.push(
      found(
        "concurrency_account_low",
        "the AWS account",
        `the queues may start ${needed} invocations at once, and ${unreservedConcurrency} are available`,
      ),
    );
  }
  return { findings };
}

function maximumOf({ ScalingConfig, ProvisionedPollerConfig }: Trigger["mapping"]): number | undefined {
  if (ScalingConfig?.MaximumConcurrency !== undefined) return ScalingConfig.MaximumConcurrency;
  const pollers = ProvisionedPollerConfig?.MaximumPollers;
  return pollers === undefined ? undefined : pollers * INVOCATIONS_PER_POLLER;
}

/** An event poller starts up to 10 invocations at a time. */
const INVOCATIONS_PER_POLLER = 10;

/** Settings that every function of a deployment must share. */
const SHARED_SETTINGS = [
  "FLOW_PARTITIONS",
  "VALKEY_URL",
  "READY_QUEUES",
  "COMPLETIONS_QUEUE_URL",
  "LIBRARY_EDITION",
];

/** `flowPartitions`: what this command works with. It may reach Valkey and the queues by other addresses. */
export function checkSettings({ functions }: FunctionReports, flowPartitions: number): CheckResult {
  const findings: DoctorFinding[] = functions.flatMap(({ name, configuration }) => {
    const error = configuration.Environment?.Error;
    return error === undefined
      ? []
      : [
          found(
            "permission_missing",
            name,
            `the environment variables cannot be decrypted: ${error.Message ?? ""}`,
            "allow kms:Decrypt on the key of the functions' environment variables",
          ),
        ];
  });
  for (const setting of SHARED_SETTINGS) {
    const values = new Map<string, string[]>();
    const add = (name: string, value: string | undefined): void => {
      if (value === undefined || value === "") return;
      const text = canonical(value);
      values.set(text, [...(values.get(text) ?? []), name]);
    };
    for (const { name, configuration } of functions) add(name, variablesOf(configuration)[setting]);
    if (setting === "FLOW_PARTITIONS" && values.size > 0) add("this command", String(flowPartitions));
    if (values.size < 2) continue;
    // The values themselves may be secret.
    const groups = [...values.values()].map((names) => names.join(" and ")).join(", differently in ");
    findings.push(found("function_settings_differ", setting, `it is set in ${groups}`));
  }
  return { findings };
}

function variablesOf({ Environment: environment }: FunctionReport["configuration"]): Record<string, string> {
  return environment?.Variables ?? {};
}

/** The order of the lanes of a JSON object has no meaning. */
function canonical(value: string): string {
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed !== "object" || parsed === null) return value;
    return JSON.stringify(Object.entries(parsed).toSorted(([left], [right]) => (left < right ? -1 : 1)));
  } catch (_notJson) {
    return value;
  }
}
