/**
 * What a proxy costs: the same reads from a server, through our proxy in front of it, through our proxy with a warm
 * cache, and through nbdkit's nbd plugin. The way to the server is over the same transport as that to the proxy.
 *
 * All programs run on one machine. So a proxy takes processor time from the client and the server, which it would not
 * elsewhere, and has no slow network to make good for.
 */
import { findProgram } from "../../tests/testing/process.ts";
import { type Contender, fromCommand } from "./servers.ts";

/**
 * @param denbd The program, as the shell has it.
 * @param direct It, serving the image.
 */
export function proxyContenders(denbd: string, direct: Contender): Contender[] {
  const proxy = `${denbd} proxy {upstream}`;
  const ours = (name: string, words: string) =>
    fromCommand(name, [
      `${proxy} --addr 127.0.0.1 --port {port} ${words}`,
      `${proxy} --unix {socket} ${words}`,
    ], { upstream: direct });
  const nbdkit = "nbdkit --foreground --exit-with-parent";
  return [
    // Here it is what the others are compared with.
    { ...direct, ours: false },
    ours("denbd-proxy", ""),
    ours("denbd-proxy-cache", "--cache --sole-writer"),
    ...findProgram("nbdkit") === null ? [] : [
      fromCommand("nbdkit-nbd", [
        `${nbdkit} --ipaddr 127.0.0.1 --port {port} nbd {upstream}`,
        `${nbdkit} --unix {socket} nbd {upstream}`,
      ], { ours: false, upstream: direct }),
    ],
  ];
}
