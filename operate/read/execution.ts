import { z } from "zod";
import { type OperateContext, readOperation } from "#operate/operation.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { flowOf } from "#shared/consistency/flow-of.ts";
import { command } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type EdgeId,
  type ExecutionId,
  parseAttemptIndex,
  parseEdgeId,
  parseExecutionId,
} from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { readEach } from "#shared/valkey/batches.ts";

/** Edges of each direction, and attempts, that are read. The counts are exact. */
const MAX_EDGES = 200;
const MAX_ATTEMPTS = 50;
/** Bytes of a payload, a result or a field of the record. */
const MAX_BYTES = 4_096;

const text = z.object({
  text: z.string().describe(`The first ${MAX_BYTES} bytes`),
  bytes: z.number().describe("The length of the whole value. 0: there is none"),
});

const edges = z.object({
  count: z.number(),
  items: z
    .array(
      z.object({
        execution: z.string(),
        task: z
          .string()
          .describe("The id of the task in the workflow. Empty if its submission recorded none"),
        state: z.string().describe("The public_state of the other execution. Empty: it has no record"),
        edge_state: z
          .string()
          .describe(
            "unsatisfied, satisfied or impossible. Empty: the edge is not applied to the downstream execution",
          ),
      }),
    )
    .max(MAX_EDGES),
});

/** Shows one execution: its record, its edges, its attempts, and the beginning of its payload and result. */
export const execution = readOperation({
  name: "execution",
  input: z.strictObject({ execution: z.string() }),
  output: z.object({
    execution: z.string(),
    task: z.string().describe("The id of the task in the workflow. Empty if its submission recorded none"),
    record: z
      .record(z.string(), z.string())
      .describe("All fields of the record that have a value (docs/contract.md, section 4)"),
    upstream: edges,
    downstream: edges,
    attempts: z.object({
      count: z.number(),
      items: z
        .array(z.record(z.string(), z.string()))
        .max(MAX_ATTEMPTS)
        .describe("The fields of the last attempts (docs/contract.md, section 15), the newest first"),
    }),
    payload: text,
    result: text,
  }),
  async run(context, { execution: idText }) {
    const id = parseExecutionId(idText);
    if (!id.ok) throw new InvalidRequestError([id.error.message]);
    const keys = context.router.execKeys(id.value);
    const { partition } = keys;
    const [core, count, payload, payloadBytes, result, resultBytes] = await readEach(
      context.valkey,
      [
        command(partition, "hgetall", keys.core),
        command(partition, "zcard", keys.attempts),
        command(partition, "getrange", keys.payload, 0, MAX_BYTES - 1),
        command(partition, "strlen", keys.payload),
        command(partition, "getrange", keys.result, 0, MAX_BYTES - 1),
        command(partition, "strlen", keys.result),
      ],
      (one) => one,
    );
    const record = fieldsOf(core);
    if (record.lifecycle_phase === undefined) {
      throw new InvalidRequestError([
        `the execution ${id.value} does not exist, or was deleted after its retention`,
      ]);
    }
    const flow = flowOf(keys, record.flow_id ?? "");
    const [task = ""] = await readTaskNames(context, [id.value]);
    return {
      execution: id.value,
      task,
      record,
      upstream: await readEdges(context, flow, id.value, "upstream"),
      downstream: await readEdges(context, flow, id.value, "downstream"),
      attempts: { count: Number(count), items: await readAttempts(context, keys) },
      payload: { text: fieldText(payload), bytes: Number(payloadBytes) },
      result: { text: fieldText(result), bytes: Number(resultBytes) },
    };
  },
});

async function readEdges(
  context: OperateContext,
  flow: FlowKeys | undefined,
  id: ExecutionId,
  direction: "upstream" | "downstream",
): Promise<z.infer<typeof edges>> {
  if (flow === undefined) return { count: 0, items: [] };
  const { valkey, router } = context;
  const { partition } = flow;
  const key = direction === "upstream" ? flow.incoming(id) : flow.outgoing(id);
  // A random part of a larger set: enough to look at, and bounded on the server as well.
  const [count, members] = await readEach(
    valkey,
    [command(partition, "scard", key), command(partition, "srandmember", key, MAX_EDGES)],
    (one) => one,
  );
  const ids = textsOf(members).flatMap((member): EdgeId[] => {
    const edge = parseEdgeId(member);
    return edge.ok ? [edge.value] : [];
  });
  const ends = await readEach(valkey, ids, (edge) =>
    command(partition, "hget", flow.edge(edge), `${direction}_execution_id`),
  );
  const others = ids.flatMap((edge, at) => {
    const other = parseExecutionId(ends[at]);
    return other.ok ? [{ edge, other: other.value }] : [];
  });
  const states = await readEach(valkey, others, ({ other }) =>
    command(partition, "hget", router.execKeys(other).core, "public_state"),
  );
  const edgeStates = await readEach(valkey, others, ({ edge, other }) =>
    command(partition, "hget", router.execKeys(direction === "upstream" ? id : other).dep(edge), "state"),
  );
  const names = await readTaskNames(
    context,
    others.map(({ other }) => other),
  );
  const items = others.map(({ other }, at) => ({
    execution: other,
    task: names[at] ?? "",
    state: fieldText(states[at]),
    edge_state: fieldText(edgeStates[at]),
  }));
  return { count: Number(count), items: items.sort((one, two) => (one.task < two.task ? -1 : 1)) };
}

async function readAttempts({ valkey }: OperateContext, keys: ExecKeys): Promise<Record<string, string>[]> {
  const { partition } = keys;
  const [members] = await readEach(valkey, [keys.attempts], (key) =>
    command(partition, "zrange", key, 0, MAX_ATTEMPTS - 1, "REV"),
  );
  const indexes = textsOf(members).flatMap((member): AttemptIndex[] => {
    const index = parseAttemptIndex(member);
    return index.ok ? [index.value] : [];
  });
  const attempts = await readEach(valkey, indexes, (index) =>
    command(partition, "hgetall", keys.attempt(index)),
  );
  return attempts.map(fieldsOf).filter((fields) => Object.keys(fields).length > 0);
}

/** The fields of a hash that have a value, shortened. */
function fieldsOf(reply: unknown): Record<string, string> {
  const words = textsOf(reply);
  const fields: Record<string, string> = {};
  for (let at = 0; at < words.length; at += 2) {
    const [name = "", value = ""] = words.slice(at, at + 2);
    if (value !== "") fields[name] = value.slice(0, MAX_BYTES);
  }
  return fields;
}

function textsOf(reply: unknown): string[] {
  return Array.isArray(reply) ? reply.map(fieldText) : [];
}
