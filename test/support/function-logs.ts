/** Splits the output of a function into log lines and metrics in the CloudWatch embedded metric format. */

import { parseJsonObject } from "#shared/contract/message.ts";

export type LogLine = Readonly<Record<string, unknown>>;

export class FunctionLogs {
  #text = "";

  /** Appends output. Pass it as `onOutput`. */
  readonly take = (text: string): void => {
    this.#text += text;
  };

  /** The JSON lines that are not metrics. */
  get lines(): LogLine[] {
    return this.#objects().filter((line) => line._aws === undefined);
  }

  get metrics(): LogLine[] {
    return this.#objects().filter((line) => line._aws !== undefined);
  }

  clear(): void {
    this.#text = "";
  }

  #objects(): LogLine[] {
    return this.#text.split("\n").flatMap((text) => {
      const line = parseJsonObject(text);
      return line === undefined ? [] : [line];
    });
  }
}
