/** Which dead letters a command is about. */

import { z } from "zod";
import { parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { type Filter, selectsEverything } from "#shared/redrive/filter.ts";

/** Messages that are named by their ids. */
const MAX_IDS = 100;
/** The longest retention of SQS. */
const MAX_AGE_SECONDS = 1_209_600;

const age = z.number().min(0).max(MAX_AGE_SECONDS);

/** The properties of an input that select dead letters. A message must match all that are given. */
export const letterSelection = {
  message_ids: z.array(z.string().min(1).max(100)).min(1).max(MAX_IDS).optional(),
  error_codes: z
    .array(z.string().min(1).max(128))
    .min(1)
    .max(MAX_IDS)
    .optional()
    .describe('Any of these codes; "none" selects messages without one'),
  flow: z
    .string()
    .superRefine((text, check) => {
      const parsed = parseFlowId(text);
      if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
    })
    .optional(),
  older_than_seconds: age.optional(),
  younger_than_seconds: age.optional(),
} as const;

const selection = z.object(letterSelection);
export type LetterSelection = z.infer<typeof selection>;

export function filterOf(selected: LetterSelection): Filter {
  const { message_ids: messageIds, error_codes: errorCodes, flow } = selected;
  return {
    messageIds,
    errorCodes,
    flow: flow === undefined ? undefined : unwrap(parseFlowId(flow)),
    olderThanSeconds: selected.older_than_seconds,
    youngerThanSeconds: selected.younger_than_seconds,
  };
}

/** Why a change of the selected messages is refused; undefined if it is not. */
export function refusalOf(selected: LetterSelection & { readonly all: boolean }): string | undefined {
  const isEverything = selectsEverything(filterOf(selected));
  if (selected.all && !isEverything) return "`all` cannot be combined with a filter: give one of them";
  if (!selected.all && isEverything) return "no messages are selected: give a filter, or `all`";
  const { older_than_seconds: older, younger_than_seconds: younger } = selected;
  return older !== undefined && younger !== undefined && older >= younger
    ? "`older_than_seconds` must be less than `younger_than_seconds`: no message can match"
    : undefined;
}

/** The selection as a text for the audit trail. */
export function describeSelection(selected: LetterSelection & { readonly all: boolean }): string {
  const { message_ids: ids, error_codes: codes, flow, all } = selected;
  const parts = [
    ...(all ? ["all"] : []),
    ...(ids === undefined ? [] : [`messages ${ids.join(", ")}`]),
    ...(codes === undefined ? [] : [`error codes ${codes.join(", ")}`]),
    ...(flow === undefined ? [] : [`flow ${flow}`]),
    ...(selected.older_than_seconds === undefined ? [] : [`older than ${selected.older_than_seconds} s`]),
    ...(selected.younger_than_seconds === undefined
      ? []
      : [`younger than ${selected.younger_than_seconds} s`]),
  ];
  return `dead letters: ${parts.join(", ")}`;
}
