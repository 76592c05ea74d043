import { Option } from "commander";
import { age } from "#cli/kit/arguments.ts";
import type { CommonOptions } from "#cli/kit/command.ts";
import type { LetterSelection } from "#operate/dead-letters/selection.ts";

const repeatable = (text: string, previous: readonly string[] | undefined): readonly string[] => [
  ...(previous ?? []),
  text,
];

/** The options that select dead letters. */
export function selectionOptions(): readonly Option[] {
  return [
    new Option(
      "--error-code <code>",
      'messages with this error code, or "none" for those without one; repeatable',
    ).argParser(repeatable),
    new Option("--flow <id>", "messages of this flow"),
    new Option("--older-than <age>", "messages older than this, e.g. 90s, 15m, 2h, 3d").argParser(age),
    new Option("--younger-than <age>", "messages younger than this").argParser(age),
  ];
}

/** The selection that the options and the ids of messages name. */
export function selectionOf(ids: readonly string[], options: CommonOptions): LetterSelection {
  const { errorCode, flow, olderThan, youngerThan } = options;
  return {
    ...(ids.length === 0 ? {} : { message_ids: [...ids] }),
    ...(errorCode === undefined ? {} : { error_codes: errorCode }),
    ...(flow === undefined ? {} : { flow }),
    ...(olderThan === undefined ? {} : { older_than_seconds: olderThan }),
    ...(youngerThan === undefined ? {} : { younger_than_seconds: youngerThan }),
  };
}
