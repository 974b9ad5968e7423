/**
 * The one place where libc is opened. A symbol is a line, with its C prototype above it; a name that ends in
 * `OnPool` runs on the runtime's thread pool and answers with a promise.
 *
 * - Results that fit are `i32`: an `isize` would come as a bigint, which costs more than the call around it.
 * - 64-bit parameters take numbers; they are exact below 2^53 (`tests/os/libc_test.ts`).
 * - errno is kept per thread. After a synchronous call {@linkcode Libc.errno} is that call's; after one on the
 *   pool it is lost.
 * - A buffer given to a call on the pool stays alive until the call has ended; nothing may move or detach it.
 */

import { errnoName, OsError } from "./os_error.ts";

const LIBRARY = "libc.so.6";

const SYMBOLS = {
  // ssize_t preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
  preadv2: { parameters: ["i32", "buffer", "i32", "i64", "i32"], result: "i32" },
  // ssize_t pread(int fd, void *buf, size_t count, off_t offset)
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  preadOnPool: {
    name: "pread",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i32",
    nonblocking: true,
  },
  // ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  pwriteOnPool: {
    name: "pwrite",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i32",
    nonblocking: true,
  },
  // int fdatasync(int fd)
  fdatasyncOnPool: { name: "fdatasync", parameters: ["i32"], result: "i32", nonblocking: true },
  // off_t lseek(int fd, off_t offset, int whence)
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  // int fallocate(int fd, int mode, off_t offset, off_t len)
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  fallocateOnPool: {
    name: "fallocate",
    parameters: ["i32", "i32", "i64", "i64"],
    result: "i32",
    nonblocking: true,
  },
  // int posix_fadvise(int fd, off_t offset, off_t len, int advice); returns the error number
  posixFadviseOnPool: {
    name: "posix_fadvise",
    parameters: ["i32", "i64", "i64", "i32"],
    result: "i32",
    nonblocking: true,
  },
  // int ioctl(int fd, unsigned long op, ...)
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  ioctlOnPool: { name: "ioctl", parameters: ["i32", "u64", "buffer"], result: "i32", nonblocking: true },
  // int fcntl(int fd, int op, ...)
  fcntl: { parameters: ["i32", "i32", "buffer"], result: "i32" },
  fcntlValue: { name: "fcntl", parameters: ["i32", "i32", "usize"], result: "i32" },
  // int open(const char *path, int flags, ...)
  open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  // int close(int fd)
  close: { parameters: ["i32"], result: "i32" },
  // int statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *buf)
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  // ssize_t getdents64(int fd, void *dirp, size_t count)
  getdents64: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  // int getrusage(int who, struct rusage *usage)
  getrusage: { parameters: ["i32", "buffer"], result: "i32" },
  // int clock_gettime(clockid_t clockid, struct timespec *tp)
  clockGettime: { name: "clock_gettime", parameters: ["i32", "buffer"], result: "i32" },
  // int socket(int domain, int type, int protocol)
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  // ssize_t sendto(int sockfd, const void *buf, size_t len, int flags, const struct sockaddr *addr, socklen_t addrlen)
  sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "i32" },
  // ssize_t recv(int sockfd, void *buf, size_t len, int flags)
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "i32" },
  // ssize_t send(int sockfd, const void *buf, size_t len, int flags)
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "i32" },
  // int poll(struct pollfd *fds, nfds_t nfds, int timeout)
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
  // ssize_t sendfile(int out_fd, int in_fd, off_t *offset, size_t count)
  sendfile: { parameters: ["i32", "i32", "buffer", "usize"], result: "i32" },
  // int pipe2(int pipefd[2], int flags)
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  // ssize_t read(int fd, void *buf, size_t count)
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  // ssize_t write(int fd, const void *buf, size_t count)
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  // ssize_t splice(int fd_in, off_t *off_in, int fd_out, off_t *off_out, size_t size, unsigned int flags)
  splice: { parameters: ["i32", "buffer", "i32", "buffer", "usize", "u32"], result: "i32" },
  spliceOnPool: {
    name: "splice",
    parameters: ["i32", "buffer", "i32", "buffer", "usize", "u32"],
    result: "i32",
    nonblocking: true,
  },
  // long syscall(long number, ...), for cachestat(unsigned fd, const struct *range, struct *stat, unsigned flags)
  cachestat: { name: "syscall", parameters: ["i64", "i64", "buffer", "buffer", "i64"], result: "i32" },
  // int getsockname(int sockfd, struct sockaddr *addr, socklen_t *addrlen)
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int getpeername(int sockfd, struct sockaddr *addr, socklen_t *addrlen)
  getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // int getsockopt(int sockfd, int level, int optname, void *optval, socklen_t *optlen)
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  // int setsockopt(int sockfd, int level, int optname, const void *optval, socklen_t optlen)
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  // sighandler_t signal(int signum, sighandler_t handler), with SIG_IGN = 1 for a handler
  signal: { parameters: ["i32", "usize"], result: "usize" },
  // int *__errno_location(void)
  errnoLocation: { name: "__errno_location", parameters: [], result: "pointer" },
} as const;

/** Deno's types want a bigint for every 64-bit parameter; the calls take numbers as well, without its cost. */
type TakesNumbers<Call> = Call extends (...args: infer Args) => infer Result
  ? (...args: { [Index in keyof Args]: Args[Index] extends bigint ? number | bigint : Args[Index] }) => Result
  : Call;

type Native = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];
type Symbols = { readonly [Name in keyof Native]: TakesNumbers<Native[Name]> };

/** libc's functions, and errno as memory. */
export interface Libc extends Symbols {
  /** errno of the calling thread: `errno[0]`, right only straight after a synchronous call. */
  readonly errno: Int32Array;
}

let opened: Libc | null | undefined;

/**
 * libc, opened at the first call.
 *
 * @returns `null` on a system without `libc.so.6`, or where the permission to open it is missing: callers then
 *   do without (a file disk falls back to {@link ../device/plain_file.ts}).
 */
export function libc(): Libc | null {
  if (opened !== undefined) return opened;
  // To ask for a permission is not our business; it may also be there later, in a test beside one without.
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return null;
  opened = open();
  return opened;
}

function open(): Libc | null {
  if (Deno.build.os !== "linux") return null;
  try {
    const { errnoLocation, getdents64 } = SYMBOLS;
    // The second is the newest of all: a libc that has it has them all.
    const { symbols } = Deno.dlopen(LIBRARY, { errnoLocation, getdents64 });
    const errno = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(symbols.errnoLocation()!, 4));
    const lib = { errno };
    for (const name of Object.keys(SYMBOLS) as (keyof typeof SYMBOLS)[]) addSymbol(lib, name);
    return lib as Libc;
  } catch {
    return null; // another libc (musl), or an old one
  }
}

/** Adds a function that is bound at its first use: it takes a third of a millisecond, and few are used at a start. */
function addSymbol(lib: object, name: keyof typeof SYMBOLS): void {
  Object.defineProperty(lib, name, {
    configurable: true,
    get() {
      const value = Deno.dlopen(LIBRARY, { [name]: SYMBOLS[name] }).symbols[name];
      Object.defineProperty(lib, name, { value });
      return value;
    },
  });
}

/** The error of the synchronous call that just failed. */
export function lastError(lib: Libc, call: string, detail?: string): OsError {
  return new OsError(errnoName(lib.errno[0]), call, detail);
}

const encoder = new TextEncoder();

/** A string as C has it. @throws {TypeError} If it contains a zero byte, which would cut it short. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) {
    throw new TypeError(`cannot pass a string with a zero byte to the system: ${text}`);
  }
  return encoder.encode(text + "\0");
}
