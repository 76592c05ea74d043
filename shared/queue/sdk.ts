/** The part of the AWS SDK that sends messages. Imported dynamically, so that it is loaded with the first message. */

export { SendMessageBatchCommand, SQSClient } from "@aws-sdk/client-sqs";
