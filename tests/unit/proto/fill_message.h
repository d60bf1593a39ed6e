// Sets every field of a message, however deep, to a value of its own, so that a converter which forgets one is found.
#pragma once

#include "google/protobuf/message.h"

namespace tributary {

// Repeated fields get two elements, enums their last value. Of a oneof, the last field stays.
void FillMessage(google::protobuf::Message& message);

}  // namespace tributary
