/** Reconcile processes that the cases of a test bed share. */

import type { FunctionProcess } from "#local/function-process.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

const processes = new WeakMap<TestBed, Map<string, FunctionProcess>>();

/** The reconciler with all its tasks. It waits `graceSeconds` after the end of an upstream. */
export function impatientReconciler(bed: TestBed, graceSeconds = 0): FunctionProcess {
  return shared(bed, { RECONCILE_GRACE_SECONDS: String(graceSeconds) });
}

/** The reconciler with only the task that marks leases. */
export function leaseSweeper(bed: TestBed): FunctionProcess {
  return shared(bed, { RECONCILE_TASKS: "leases" });
}

/** The reconciler with only the task that deletes flows, an hour after their end. */
export function retentionSweeper(bed: TestBed): FunctionProcess {
  return shared(bed, { RECONCILE_TASKS: "retention", RETENTION_HOURS: "1" });
}

function shared(bed: TestBed, settings: Readonly<Record<string, string>>): FunctionProcess {
  const ofBed = processes.get(bed) ?? new Map<string, FunctionProcess>();
  processes.set(bed, ofBed);
  const key = JSON.stringify(settings);
  const fn = ofBed.get(key) ?? bed.startFunction("reconcile", { LANES: "default", ...settings });
  ofBed.set(key, fn);
  return fn;
}
