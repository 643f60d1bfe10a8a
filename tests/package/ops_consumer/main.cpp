// The nearest rotation to a slightly disturbed identity, through the header and through the dispatcher.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ops/polar.h>

#include <iostream>

int main() {
  const auto [r, certificate] = qkr::polar(at::eye(3) + 0.1, 0.0);
  const bool registered = c10::Dispatcher::singleton().findSchema({"qk_restore::lightning_attention", ""}).has_value();
  std::cout << "trace " << r.trace().item<double>() << (registered ? " registered" : "") << "\n";
}
