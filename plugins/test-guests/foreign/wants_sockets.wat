;; A policy, by its export, that wants WASI's sockets.
(component
  (import "wasi:sockets/tcp@0.2.0" (instance))
  (instance $balancer)
  (export "waymark:plugin/balancer@0.1.0" (instance $balancer)))
