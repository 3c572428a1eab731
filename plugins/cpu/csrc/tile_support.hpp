// May tiles be used here, and are they right? Needs a build with kernels for tiles.
#pragma once
#include <string>

namespace ip {

// Null where this process may use tiles, which it asks for by this call; else why not.
const char* tiles_refused();

// Small products and attention by tiles against the same by vectors. Empty, or what is wrong.
std::string check_tiles();

}  // namespace ip
