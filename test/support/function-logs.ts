/** What a function writes: lines of JSON, of which some are metrics in CloudWatch's embedded format. */

import { parseJsonObject } from "#shared/contract/message.ts";

export type LogLine = Readonly<Record<string, unknown>>;

export class FunctionLogs {
  #text = "";

  /** For `onOutput`. */
  readonly take = (text: string): void => {
    this.#text += text;
  };

  /** Lines that are JSON and no metrics. */
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
