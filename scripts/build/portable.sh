#!/bin/sh
# denbd @VERSION@: network block storage in one file.
#
# Behind this text come a JavaScript runtime and the program, compressed. The first start unpacks them into a
# directory that nobody but the caller and root can change; every start checks that this is still so and that the
# checksums of both files are right, unpacks them anew if not, and becomes the program (same pid, same signals).
#
# The directory is $DENBD_UNPACK_DIR if that is set, else the first usable one of systemd's $CACHE_DIRECTORY,
# $XDG_CACHE_HOME/denbd, ~/.cache/denbd, /var/cache/denbd and denbd-UID in the temporary directory.

# Until the program has taken this signal over it would end the process; what is ignored here stays ignored.
trap '' USR1

# What this needs is there, whatever the caller makes of PATH.
PATH=${PATH:+$PATH:}/usr/bin:/bin

id=@ID@
case $0 in
  */*) self=$0 ;;
  *) self=./$0 ;;
esac

# Each directory from the root to $1 belongs to the caller or to root, and others cannot write to it, or, where it
# is sticky like /tmp, cannot rename what is not theirs.
trusted() {
  path=$1
  set --
  while [ -n "$path" ]; do
    set -- "$path" "$@"
    path=${path%/*}
  done
  facts=$(stat -c '%u %a %n' -- / "$@" 2>/dev/null) || return 1
  while read -r owner mode name; do
    [ "$owner" = 0 ] || [ -O "$name" ] || return 1
    case $mode in
      [1357]???) ;;
      *[2367]? | *[2367]) return 1 ;;
    esac
  done <<EOF
$facts
EOF
}

# Sets $home to the directory $1, made if need be, by its path without links.
enter() {
  [ -d "$1" ] || (umask 077 && mkdir -p -- "$1") 2>/dev/null || return 1
  [ ! -h "$1" ] && home=$(cd -P -- "$1" 2>/dev/null && pwd -P) && [ -w "$home" ] || return 1
  case $home in
    *'
'*) return 1 ;;
  esac
  trusted "$home"
}

# $1 is a private directory of the caller's with both files as they were packed; no links.
whole() {
  for file in "$1/denbd" "$1/denbd.js"; do
    [ -f "$file" ] && [ ! -h "$file" ] && [ -O "$file" ] || return 1
  done
  [ -d "$1" ] && [ ! -h "$1" ] && [ -O "$1" ] && [ -x "$1/denbd" ] || return 1
  facts=$(stat -c %a -- "$1" && cksum -- "$1/denbd" "$1/denbd.js") 2>/dev/null
  [ "$facts" = "700
@RUNTIME_CKSUM@ $1/denbd
@PROGRAM_CKSUM@ $1/denbd.js" ]
}

# Makes $home/$id. It appears all at once, so starts at the same time do no harm; one that was damaged makes room.
unpack() (
  umask 077
  new=$(mktemp -d "$home/unpacking.XXXXXXXX") || exit 1
  trap 'rm -rf -- "$new"' EXIT
  trap 'exit 1' HUP INT TERM
  mkdir "$new/whole" || exit 1
  tail -c +@RUNTIME_AT@ -- "$self" | head -c @RUNTIME_BYTES@ | gzip -dc >"$new/whole/denbd"
  tail -c +@PROGRAM_AT@ -- "$self" | head -c @PROGRAM_BYTES@ | gzip -dc >"$new/whole/denbd.js"
  cd -- "$new/whole" || exit 1
  printf '%s  %s\n' @RUNTIME_SHA256@ denbd @PROGRAM_SHA256@ denbd.js | sha256sum --check --status - || exit 1
  chmod 500 denbd && sync denbd denbd.js && [ -x denbd ] || exit 1
  whole "$home/$id" || {
    [ ! -e "$home/$id" ] || mv -T -- "$home/$id" "$new/damaged"
    mv -T -- "$new/whole" "$home/$id"
  }
  # Copies of other builds that are a day old, and that no process runs.
  for other in "$home"/*; do
    [ "$other" != "$home/$id" ] && [ ! -h "$other" ] && [ -O "$other" ] || continue
    [ -f "$other/denbd" ] && [ -f "$other/denbd.js" ] || continue
    [ -n "$(find "$other" -maxdepth 0 -mtime +0)" ] || continue
    ! ls -l /proc/[0-9]*/exe | grep -qF -- " -> $other/denbd" || continue
    mv -T -- "$other" "$new/${other##*/}"
  done
  # What an interrupted start left behind.
  find "$home" -maxdepth 1 -name 'unpacking.*' -mmin +60 -exec rm -rf {} +
) 2>/dev/null

start() {
  home=
  enter "$1" || return 1
  whole "$home/$id" || { unpack && whole "$home/$id"; } || return 1
  shift
  DENO_DIR=$home/$id/deno DENO_NO_UPDATE_CHECK=1 exec "$home/$id/denbd" @FLAGS@ "$home/$id/denbd.js" "$@"
}

if [ -n "$DENBD_UNPACK_DIR" ]; then
  start "$DENBD_UNPACK_DIR" "$@"
  printf 'denbd: cannot unpack to %s: it must be writable for you and nobody else and have 100 MB free, and this file be whole\n' \
    "$DENBD_UNPACK_DIR" >&2
  exit 1
fi
[ -z "$CACHE_DIRECTORY" ] || start "${CACHE_DIRECTORY%%:*}" "$@"
[ -z "$XDG_CACHE_HOME" ] || start "$XDG_CACHE_HOME/denbd" "$@"
[ -z "$HOME" ] || start "$HOME/.cache/denbd" "$@"
[ ! -w /var/cache ] || start /var/cache/denbd "$@"
start "${TMPDIR:-/tmp}/denbd-$(id -u)" "$@"
echo 'denbd: cannot unpack: no directory that only you can write to has 100 MB free (DENBD_UNPACK_DIR can name one), or this file is damaged' >&2
exit 1
