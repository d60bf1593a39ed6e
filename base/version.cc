#include "base/version.h"

#include "revision.h"  // written by the build (cmake/revision.cmake)

namespace tributary {

std::string_view Version() { return TRIBUTARY_VERSION; }
std::string_view Revision() { return TRIBUTARY_REVISION; }
std::string_view VersionText() { return TRIBUTARY_VERSION " (" TRIBUTARY_REVISION ")"; }

}  // namespace tributary
