// What a torch without CUDA lacks for fake tensors of a GPU to be indexed: a device guard. This one does nothing.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>);
}
