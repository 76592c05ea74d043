/** The parts of the functions that are measured on their own, bundled and minified like the functions. */

export { dispatch } from "#shared/dispatch/dispatcher.ts";
export { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
export { Valkey } from "#shared/valkey/client.ts";
