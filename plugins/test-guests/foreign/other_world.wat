;; A component of another world: a command that exports one function and knows nothing of Waymark.
(component
  (core module $code
    (func (export "run")))
  (core instance $code (instantiate $code))
  (func $run (canon lift (core func $code "run")))
  (export "run" (func $run)))
