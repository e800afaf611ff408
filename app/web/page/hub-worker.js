/**
 * The SharedWorker that all tabs of this browser join: a hub for each key, behind message ports.
 *
 * @module
 */

import { Reprise } from "../client.js";
import { Hub } from "./hub.js";

/** @type {Map<string, Hub>} */
const hubs = new Map();

globalThis.addEventListener("connect", ({ ports: [port] }) => {
  let member = null;
  port.addEventListener("message", ({ data }) => {
    if (data.type === "join") {
      const name = `${data.baseUrl} ${data.key}`;
      if (!hubs.has(name)) hubs.set(name, new Hub(new Reprise(data)));
      member = hubs.get(name).join((message) => port.postMessage(message));
    } else if (data.type === "leave") {
      member?.leave();
      port.close();
    } else if (["watch", "unwatch", "wake"].includes(data.type)) {
      member?.[data.type](data.id);
    }
  });
  port.start();
});
