# One held session, for any POSIX sh. It follows the assignments that program.go
# writes, and runs as four processes in a row, so that the end of each is the
# end of the next one's input:
#
#   hold     waits for a word of our input, its end, the TTL, or our own death
#   session  prepares, freezes, waits for the end of hold, and thaws
#   marker   makes a mark of what a recipe writes to descriptor 3, and passes on
#            the end of the session, so that it comes after that
#   relay    passes on a bounded part of all that was written, and the marks
#
# Nothing but relay holds our output, so what a command leaves behind in the
# background keeps nothing open, and a command whose reader is gone neither
# blocks nor dies of it. No process of ours is left to another parent, and those
# that could be end with 0: a database that is the container's first process
# takes an adopted child's failure for a crash of its own. A signal to all of
# them ends hold, and so thaws; the others see to the rest first.
#
# Descriptors: 5 our input, 6 our output, 4 the way to relay.

mark() { printf '\n%s %s\n' "$k_nonce" "$*"; }

# expires SECONDS PID ends a process after some time, or with the shell that
# was started, unless it has ended by itself.
expires() {
  k_n=0
  while [ "$k_n" -lt "$1" ]; do
    sleep 1
    k_n=$((k_n + 1))
    kill -0 "$2" || return 1
    kill -0 $$ || break
  done
}

# listen SECONDS waits for a line of our input: 0 if one came, 1 if the input
# ended, more where the time was over.
listen() {
  ( IFS= read -r k_line ) <&5 >/dev/null 2>&1 4>&- &
  k_reader=$!
  ( expires "$1" "$k_reader" && kill "$k_reader"; exit 0 ) >/dev/null 2>&1 4>&- 5<&- &
  wait "$k_reader"
}

hold() {
  trap : PIPE
  if listen "$k_patience"; then
    echo go
    listen "$k_ttl"
    case $? in
    0) mark over requested ;;
    1) mark over lost ;;
    *) mark over expired ;;
    esac >&4
  fi
  exec >/dev/null 4>&- # which ends the input of session
  wait
  exit 0
}

# bounded SCRIPT runs one for as long as the timeout at most. It has ended when
# this returns, however long it takes to die: what it does comes before what
# follows.
bounded() {
  ( exec 3>&- 4>&-; eval "$1" ) </dev/null &
  k_job=$!
  (
    if expires "$k_timeout" "$k_job"; then
      mark timeout >&4
      kill "$k_job"
      sleep 2
      kill -9 "$k_job"
    fi
    exit 0
  ) >/dev/null 2>&1 3>&- &
  while
    wait "$k_job"
    k_status=$?
    kill -0 "$k_job" 2>/dev/null
  do :; done # a signal of ours ended the wait
  return "$k_status"
}

# running NONCE tells whether a session is still there: its nonce is the last
# argument of its shell.
running() {
  for k_file in /proc/[0-9]*/cmdline; do
    ( while IFS= read -r k_line || [ -n "$k_line" ]; do
        case $k_line in *"$1"*) exit 0 ;; esac
      done <"$k_file"
      exit 1 ) && return 0
  done
  return 1
}

# claim keeps another backup's session with the same scripts out until unclaim:
# its thaw would let go what this one holds. A link is made at once with what it
# says, which is whose it is; one whose session was killed counts for nothing.
# Where a container has no place or no program for it, nobody is kept out.
claim() {
  k_claimed=
  [ -n "$k_claim" ] && [ -r /proc/self/cmdline ] || return 0
  for k_name in ln readlink rm; do
    command -v "$k_name" || return 0
  done
  for k_dir in /dev/shm /run /tmp; do
    [ -w "$k_dir" ] || continue
    k_n=0
    until ln -s "$k_run $k_nonce" "$k_dir/$k_claim"; do
      k_owner=$(readlink "$k_dir/$k_claim")
      case $k_owner in "$k_run "*) return 0 ;; esac # another hook of this backup
      if [ -n "$k_owner" ] && ! running "${k_owner#* }"; then
        rm -f "$k_dir/$k_claim"
      elif [ "$k_n" -lt "$k_timeout" ]; then
        k_n=$((k_n + 1))
        sleep 1
      else
        return 1
      fi
    done
    k_claimed=$k_dir/$k_claim
    return 0
  done
}

unclaim() {
  [ -z "$k_claimed" ] || [ "$(readlink "$k_claimed")" != "$k_run $k_nonce" ] || rm -f "$k_claimed"
}

steps() {
  bounded "$k_freeze"
  k_froze=$?
  if [ "$k_froze" = 0 ]; then
    mark frozen
    while read -r k_line; do :; done
  else
    mark failed "$k_froze"
  fi
  ( trap '' HUP INT TERM; exec 3>&- 4>&-; eval "$k_thaw" ) </dev/null
  mark end $?
}

session() {
  trap : PIPE HUP INT TERM
  k_missing=
  for k_name in sleep $k_requires; do
    command -v "$k_name" >/dev/null 2>&1 || k_missing="$k_missing $k_name"
  done
  if [ -n "$k_missing" ]; then
    mark missing "$k_missing"
    mark end 0
  elif [ -n "$k_prepare" ] && ! bounded "$k_prepare"; then
    mark unprepared
    mark end 0
  else
    mark ready
    if ! read -r k_line; then
      mark end 0
    elif ! claim >/dev/null 2>&1 3>&- 4>&-; then
      mark refused "another backup holds it, and did not let go within $k_timeout s"
      mark end 0
    elif [ -n "$k_session" ]; then
      ( trap '' HUP INT TERM; exec 4>&-; eval "$k_session" )
      mark end $? >&3 # behind what it said of itself
    else
      steps
    fi
    unclaim
  fi
  exec >/dev/null 2>&1 3>&- 4>&-
  wait
  exit 0
}

# marker takes the first line for the recipe's word, and passes on the end.
marker() {
  trap : PIPE
  trap '' HUP INT TERM
  k_said=
  while IFS= read -r k_line; do
    case $k_line in
    '') ;;
    "$k_nonce end "*) printf '\n%s\n' "$k_line"; break ;;
    *)
      [ -z "$k_said" ] || continue
      k_said=$k_line
      if [ "$k_line" = frozen ]; then mark frozen; else mark refused "$k_line"; fi
      ;;
    esac
  done
  exit 0
}

# relay passes on 50 lines, and of more the last three when all is over.
relay() {
  trap : PIPE
  trap '' HUP INT TERM
  k_n=0 k_a='' k_b='' k_c=''
  while IFS= read -r k_line; do
    case $k_line in
    '') ;;
    "$k_nonce end "*)
      for k_text in "$k_a" "$k_b" "$k_c"; do
        [ -z "$k_text" ] || printf '%s | %.400s\n' "$k_nonce" "$k_text"
      done
      printf '%s\n' "$k_line"
      exit 0
      ;;
    "$k_nonce "*) printf '%s\n' "$k_line" ;;
    *)
      k_n=$((k_n + 1))
      if [ "$k_n" -le 50 ]; then
        printf '%s | %.400s\n' "$k_nonce" "$k_line"
      else
        k_a=$k_b k_b=$k_c k_c=$k_line
      fi
      ;;
    esac
  done
  exit 0
}

exec 5<&0 6>&1 </dev/null >/dev/null
{
  hold | session 3>&1 >&4 2>&4 5<&- | marker 5<&- >&4
} 4>&1 6>&- | relay >&6 2>/dev/null 5<&-
