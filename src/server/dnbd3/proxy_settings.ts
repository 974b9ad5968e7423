/** The keys of `server.conf` that concern a proxy; a reload may change them. */
export interface ProxySettings {
  /** How much of an image is copied although nobody asks: nothing, what was begun, all. */
  readonly backgroundReplication: "off" | "hashblock" | "full";
  /** Users that an image needs for that. */
  readonly bgrMinClients: number;
  /** Requests in flight for that. */
  readonly bgrWindowSize: number;
  readonly lookupMissingForProxy: boolean;
  readonly sparseFiles: boolean;
  readonly ignoreAllocErrors: boolean;
  readonly pretendClient: boolean;
  /** Clients get nothing of a hash block before all of it is here and fits its checksum. */
  readonly verifyBeforeRelay: boolean;
  /** In seconds; -1: never. */
  readonly autoFreeDiskSpaceDelay: number;
  /** Of one request to another server, in bytes, as the rest. */
  readonly maxPayload: number;
  readonly maxReplicationSize: number;
  readonly maxPrefetch: number;
  readonly minRequestSize: number;
}
