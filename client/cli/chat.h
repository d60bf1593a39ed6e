// `tributary chat`: lines in, answers out, one sequence that stays between the turns.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "client/api/client.h"
#include "client/cli/options.h"
#include "client/terminal/interrupt.h"
#include "client/text/text_codec.h"

namespace tributary {

// Until /exit, the end of standard input, or SIGTERM. Ctrl-C ends the answer that is coming, and at an empty prompt the
// second one the chat. On a terminal a turn that fails is told, and the chat goes on; elsewhere its error is returned.
// `codec` is of MakeChatCodec().
absl::Status ChatWith(Client& client, const ChatCommand& command, std::unique_ptr<TextCodec> codec, Interrupt& stop);

// What the chat is encoded by, asked for before a cluster is started. Errors as of MakeTextCodec().
absl::StatusOr<std::unique_ptr<TextCodec>> MakeChatCodec(const ChatCommand& command);

}  // namespace tributary
