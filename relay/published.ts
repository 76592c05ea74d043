import type { Completion } from "#shared/contract/message.ts";
import { parseCompletionEvent, parseJsonObject } from "#shared/contract/message.ts";

const SKIPPED = "skipped";
/** A hint for people. SQS refuses some characters and sizes: what is no word must not be sent for ever. */
const WORD = /^[a-z_]{1,32}$/;

/** What a message on the completions channel is. */
export type Published =
  | { readonly kind: "completion"; readonly completion: Completion }
  /** The dispatcher, which skipped the execution, sends its completion itself, with the cascade's depth and root. */
  | { readonly kind: "skipped" }
  | { readonly kind: "without_flow" }
  | { readonly kind: "malformed"; readonly reason: string };

/** Reads an event as it is published (contract, section 8): the body of a queue message, without attributes. */
export function readPublished(text: string): Published {
  const event = parseCompletionEvent({ body: text, messageAttributes: {} });
  if (!event.ok) return { kind: "malformed", reason: event.error.message };
  const { executionId, flowId, depth, root } = event.value;
  if (flowId === undefined) return { kind: "without_flow" };
  const outcome = parseJsonObject(text)?.outcome;
  if (outcome === SKIPPED) return { kind: "skipped" };
  return {
    kind: "completion",
    completion: {
      executionId,
      flowId,
      outcome: typeof outcome === "string" && WORD.test(outcome) ? outcome : "",
      depth,
      root,
    },
  };
}
