;; A policy, by its export, that wants WASI's files.
(component
  (import "wasi:filesystem/types@0.2.0" (instance))
  (instance $balancer)
  (export "waymark:plugin/balancer@0.1.0" (instance $balancer)))
