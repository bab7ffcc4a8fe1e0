;; A plan that says it has four billion entries.
;;
;; A core module: the builder makes a policy of it.
(module
  (memory (export "memory") 2)
  (data (i32.const 48) "1.0.0")
  (data (i32.const 64) "wild_length")
  (global $free (mut i32) (i32.const 1024))
  (global $endpoints (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    ;; Never given back: an instance lives for one build.
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func (export "waymark:plugin/balancer@0.1.0#describe") (result i32)
    (i32.store (i32.const 128) (i32.const 64)) (i32.store (i32.const 132) (i32.const 11))
    (i32.store (i32.const 136) (i32.const 48)) (i32.store (i32.const 140) (i32.const 5))
    (i32.const 128))
  (func (export "waymark:plugin/balancer@0.1.0#build")
    (param $config i32) (param i32) (param $service i32) (param i32) (param $zone i32) (param i32)
    (param $list i32) (param $count i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.store8 (i32.const 260) (i32.const 0))
    (i32.store (i32.const 264) (i32.const 0))
    (i32.store (i32.const 268) (i32.const -1))
    (i32.const 256))
  (func (export "waymark:plugin/balancer@0.1.0#pick")
    (param $sequence i32) (param i32) (param i32) (param i32) (param i32) (param $attempt i32) (result i32)
    ;; The endpoint whose turn it is, of the number that build was given.
    (i32.store8 (i32.const 512) (i32.const 0))
    (i32.store (i32.const 516) (i32.rem_u (local.get $sequence) (global.get $endpoints)))
    (i32.const 512)))
