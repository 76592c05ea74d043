import type { Benchmark } from "#bench/benchmark.ts";
import { batch } from "#bench/benchmarks/batch.ts";
import { capacity } from "#bench/benchmarks/capacity.ts";
import { cascade } from "#bench/benchmarks/cascade.ts";
import { cold } from "#bench/benchmarks/cold.ts";
import { cost } from "#bench/benchmarks/cost.ts";
import { delay } from "#bench/benchmarks/delay.ts";
import { durable } from "#bench/benchmarks/durable.ts";
import { endToEnd } from "#bench/benchmarks/end-to-end.ts";
import { fanout } from "#bench/benchmarks/fanout.ts";
import { listFlows } from "#bench/benchmarks/list-flows.ts";
import { lua } from "#bench/benchmarks/lua.ts";
import { memory } from "#bench/benchmarks/memory.ts";
import { overload } from "#bench/benchmarks/overload.ts";
import { reconcile } from "#bench/benchmarks/reconcile.ts";
import { skip } from "#bench/benchmarks/skip.ts";
import { submission } from "#bench/benchmarks/submit.ts";

/** In the order in which they are run. */
export const ALL: readonly Benchmark[] = [
  fanout,
  delay,
  durable,
  skip,
  batch,
  lua,
  cascade,
  endToEnd,
  reconcile,
  overload,
  submission,
  listFlows,
  cold,
  memory,
  cost,
  capacity,
];
