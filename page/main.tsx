import { render } from "preact";
import { takeToken } from "#page/api.ts";
import { App } from "#page/app.tsx";
import { live } from "#page/live.ts";
import { applyTheme } from "#page/theme.ts";

takeToken();
applyTheme();
live.open();
const root = document.getElementById("app");
if (root !== null) render(<App />, root);
