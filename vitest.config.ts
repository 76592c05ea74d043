import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // The package has its own run: npm run test:package.
    exclude: ["**/node_modules/**", "dist/**", "test/package/**"],
    globalSetup: ["test/support/global-setup.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
    // Most tests wait for servers and processes: more workers than cores keep two cores busy.
    maxWorkers: 4,
  },
});
