;; WASI preview 1 with nothing behind it, for modules whose toolchain imports it whatever the code does (Go, C with stdio).
;; It is put into the component, which then imports none of it: no files, no arguments, no environment; output is thrown away; each look at
;; a clock finds it a microsecond later; random numbers are the same in every instance. So a policy stays a pure function.
(module
  (import "env" "memory" (memory 0))

  (global $now (mut i64) (i64.const 0))
  (global $seed (mut i64) (i64.const 0x2545f4914f6cdd1d))

  ;; Two counts of nothing: arguments, or the environment.
  (func $none (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (func $nothing (param i32 i32) (result i32) (i32.const 0))
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (export "args_get" (func $nothing))
  (export "environ_get" (func $nothing))

  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $time i32) (result i32)
    (global.set $now (i64.add (global.get $now) (i64.const 1000)))
    (i64.store (local.get $time) (global.get $now))
    (i32.const 0))
  (func (export "clock_res_get") (param $clock i32) (param $resolution i32) (result i32)
    (i64.store (local.get $resolution) (i64.const 1000))
    (i32.const 0))

  ;; xorshift64 (Marsaglia, 2003), a byte at a time.
  (func (export "random_get") (param $at i32) (param $len i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 13))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 7))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 17))))
        (i64.store8 (local.get $at) (i64.shr_u (global.get $seed) (i64.const 24)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Written is what was asked to be written.
  (func (export "fd_write") (param $fd i32) (param $at i32) (param $count i32) (param $written i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $sum))
    (i32.const 0))

  ;; Waiting is over at once: every subscription has its event.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (i32.store (local.get $events) (local.get $count))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (i64.store (local.get $out) (i64.load (local.get $in)))
        (i64.store offset=8 (local.get $out) (i64.const 0))
        (i64.store offset=16 (local.get $out) (i64.const 0))
        (i64.store offset=24 (local.get $out) (i64.const 0))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (local.set $out (i32.add (local.get $out) (i32.const 32)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param i32) (unreachable))

  ;; There is no such file (EBADF is 8).
  (func $bad1 (param i32) (result i32) (i32.const 8))
  (func $bad2 (param i32 i32) (result i32) (i32.const 8))
  (func $bad3 (param i32 i32 i32) (result i32) (i32.const 8))
  (func $bad4 (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (func $bad_seek (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (export "fd_close" (func $bad1))
  (export "fd_fdstat_get" (func $bad2))
  (export "fd_fdstat_set_flags" (func $bad2))
  (export "fd_prestat_get" (func $bad2))
  (export "fd_filestat_get" (func $bad2))
  (export "fd_prestat_dir_name" (func $bad3))
  (export "fd_read" (func $bad4))
  (export "fd_seek" (func $bad_seek)))
