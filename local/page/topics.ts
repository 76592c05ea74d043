/** What a page watches: read operations with their inputs. Each sends what changed since its last run. */

import { z } from "zod";
import { type GraphNode, graph } from "#operate/read/graph.ts";
import { messageOf } from "#shared/errors.ts";

/** Runs a read operation by name. */
export type RunRead = (operation: string, input: unknown) => Promise<unknown>;

/** A page shows few things at once. */
const MAX_TOPICS = 10;
/** Pages of a graph: 20,000 executions. A larger graph is shown in part. */
const MAX_GRAPH_PAGES = 20;

export const topicsSchema = z
  .array(z.strictObject({ operation: z.string().max(100), input: z.record(z.string(), z.unknown()) }))
  .max(MAX_TOPICS);

export type TopicRequest = z.infer<typeof topicsSchema>[number];

/** One message to the page: a new output, the states of a graph that changed, or why the operation failed. */
export type TopicUpdate = TopicRequest &
  (
    | { readonly output: unknown }
    | { readonly states: Readonly<Record<string, string>> }
    | { readonly error: string }
  );

export interface Topic {
  readonly request: TopicRequest;
  /** Runs the operation. Undefined: nothing has changed. */
  update(run: RunRead): Promise<TopicUpdate | undefined>;
}

export function topicOf(request: TopicRequest): Topic {
  return request.operation === graph.name ? new GraphTopic(request) : new OutputTopic(request);
}

/** Sends the whole output whenever it differs. */
class OutputTopic implements Topic {
  readonly request: TopicRequest;
  #last = "";

  constructor(request: TopicRequest) {
    this.request = request;
  }

  async update(run: RunRead): Promise<TopicUpdate | undefined> {
    const { operation, input } = this.request;
    const update = { ...this.request, ...(await resultOf(() => run(operation, input))) };
    // The time at which something was read is no change of it.
    const text = JSON.stringify(update, (name, value: unknown) => (name === "read_at" ? undefined : value));
    if (text === this.#last) return undefined;
    this.#last = text;
    return update;
  }
}

/** Sends a graph once, and then the states that changed: a large graph has hundreds of kilobytes. */
class GraphTopic implements Topic {
  readonly request: TopicRequest;
  #revision: number | undefined;
  #states = new Map<string, string>();
  #error = "";

  constructor(request: TopicRequest) {
    this.request = request;
  }

  async update(run: RunRead): Promise<TopicUpdate | undefined> {
    try {
      const states = await readGraph(run, this.request.input, true);
      const isSame =
        states.revision === this.#revision &&
        states.nodes.length === this.#states.size &&
        states.nodes.every((node) => this.#states.has(node.execution_id));
      const read = isSame ? states : await readGraph(run, this.request.input, false);
      this.#error = "";
      return isSame ? this.#changed(read.nodes) : this.#whole(read);
    } catch (error) {
      const message = messageOf(error);
      if (message === this.#error) return undefined;
      this.#error = message;
      this.#revision = undefined;
      return { ...this.request, error: message };
    }
  }

  #whole(read: Graph): TopicUpdate {
    this.#revision = read.revision;
    this.#states = new Map(read.nodes.map((node) => [node.execution_id, node.state]));
    return { ...this.request, output: read };
  }

  #changed(nodes: readonly GraphNode[]): TopicUpdate | undefined {
    const changed = nodes.filter((node) => this.#states.get(node.execution_id) !== node.state);
    if (changed.length === 0) return undefined;
    const states = Object.fromEntries(changed.map((node) => [node.execution_id, node.state]));
    for (const [id, state] of Object.entries(states)) this.#states.set(id, state);
    return { ...this.request, states };
  }
}

interface Graph {
  readonly flow_id: string;
  readonly name: string;
  readonly revision: number;
  readonly nodes: readonly GraphNode[];
  /** The graph has more executions than are shown. */
  readonly is_partial: boolean;
}

async function readGraph(run: RunRead, input: object, statesOnly: boolean): Promise<Graph> {
  const nodes: GraphNode[] = [];
  let cursor: string | undefined;
  for (let pages = 1; ; pages += 1) {
    const page = graph.output.parse(
      await run(graph.name, {
        ...input,
        states_only: statesOnly,
        ...(cursor === undefined ? {} : { cursor }),
      }),
    );
    nodes.push(...page.nodes);
    cursor = page.next;
    if (cursor === undefined || pages === MAX_GRAPH_PAGES) {
      const { flow_id, name, revision } = page;
      return { flow_id, name, revision, nodes, is_partial: cursor !== undefined };
    }
  }
}

async function resultOf(run: () => Promise<unknown>): Promise<{ output: unknown } | { error: string }> {
  try {
    return { output: await run() };
  } catch (error) {
    return { error: messageOf(error) };
  }
}
