import { begin, headers } from "./chat.js";
import { watch } from "./cluster.js";

begin();
watch(headers);
