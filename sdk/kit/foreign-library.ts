import type { Log } from "#shared/runtime/telemetry.ts";

/**
 * FlowFabric's servers admit executions by budgets and quotas before they grant a claim. A worker of this kit asks its library
 * for the grant directly.
 */
export function warnOfBudgets(log: Log): void {
  log.warn(
    "Valkey has FlowFabric's library: this worker claims directly, so FlowFabric's budgets and quotas do not apply",
    {},
  );
}
