/** Preloaded into a function's process: AWS's runtime client does not notice when the parent process ends. */

// The parent process has ended, so nothing else would end this one.
process.on("disconnect", () => process.exit(0));
// As in Lambda, a process with an empty event loop exits at once instead of waiting for the function's timeout.
process.channel?.unref();
