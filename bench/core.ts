/** What of the deployed code is measured without the function around it. Bundled and minified as the functions are. */

export { dispatch } from "#shared/dispatch/dispatcher.ts";
export { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
export { Valkey } from "#shared/valkey/client.ts";
