;; A policy for a version of the interface that does not exist yet.
(component
  (core module $code
    (func (export "pick") (result i32)
      i32.const 0))
  (core instance $code (instantiate $code))
  (func $pick (result u32) (canon lift (core func $code "pick")))
  (instance $balancer (export "pick" (func $pick)))
  (export "waymark:plugin/balancer@9.0.0" (instance $balancer)))
