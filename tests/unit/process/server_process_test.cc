#include "process/server_process.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// Runs a program with these flags; each test in a process of its own, since a process has one set of signals.
int RunProgram(std::vector<std::string> flags, const std::function<absl::Status(ServerProcess&)>& run) {
  flags.insert(flags.begin(), "program");
  std::vector<char*> argv;
  for (std::string& flag : flags) argv.push_back(flag.data());
  return RunServerProgram(
      static_cast<int>(argv.size()), argv.data(), {"program", "program", "A program."}, [](CLI::App&) {}, run);
}

class ServerProcessDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(ServerProcessDeathTest, ServesUntilItIsToldToStop) {
  const std::string ports = std::filesystem::path(::testing::TempDir()) / "tributary_server_process_test.json";
  EXPECT_EXIT(std::exit(RunProgram({"--port-file", ports, "--metrics-listen", "127.0.0.1:0"},
                                   [&](ServerProcess& process) {
                                     process.SetBuildInfo("");
                                     if (!process.StartMetrics().ok()) return absl::InternalError("metrics");
                                     auto rpc = RpcServer::Start(process.flags().listen, {});
                                     if (!rpc.ok()) return rpc.status();
                                     const absl::Status published = process.PublishAddress(**rpc, (*rpc)->address());
                                     if (!published.ok()) return published;
                                     std::ostringstream text;
                                     text << std::ifstream(ports).rdbuf();
                                     if (text.str().find((*rpc)->address()) == std::string::npos ||
                                         text.str().find(process.metrics_address()) == std::string::npos) {
                                       return absl::InternalError("port file: " + text.str());
                                     }
                                     process.SetServing(**rpc, "ready to serve");
                                     kill(getpid(), SIGTERM);
                                     process.WaitForStop();
                                     int polls = 0;
                                     if (!process.Drain([&] { return ++polls > 2; }))
                                       return absl::InternalError("drain");
                                     return process.refusal();
                                   })),
              ::testing::ExitedWithCode(0), "I program.*ready to serve");
  std::filesystem::remove(ports);
}

TEST_F(ServerProcessDeathTest, ADrainEndsWithItsTime) {
  EXPECT_EXIT(std::exit(RunProgram({"--drain-timeout-s", "0"},
                                   [](ServerProcess& process) {
                                     return process.Drain([] { return false; }) ? absl::InternalError("endless")
                                                                                : absl::OkStatus();
                                   })),
              ::testing::ExitedWithCode(0), "");
}

TEST_F(ServerProcessDeathTest, ARefusalStopsItAndIsItsError) {
  EXPECT_EXIT(std::exit(RunProgram({},
                                   [](ServerProcess& process) {
                                     auto rpc = RpcServer::Start(process.flags().listen, {});
                                     if (!rpc.ok()) return rpc.status();
                                     process.SetServing(**rpc, "ready");
                                     process.Refuse(absl::FailedPreconditionError("other release\x1b[2J"));
                                     process.WaitForStop();
                                     if (!process.Drain([] { return false; })) return absl::InternalError("drained");
                                     return process.refusal();
                                   })),
              ::testing::ExitedWithCode(1), "program: other release.x1b.2J");
}

TEST_F(ServerProcessDeathTest, WrongFlagsEndItBeforeItRuns) {
  const auto never = [](ServerProcess&) { return absl::OkStatus(); };
  EXPECT_EXIT(std::exit(RunProgram({"--log-level", "loud"}, never)), ::testing::ExitedWithCode(1), "loud");
  EXPECT_EXIT(std::exit(RunProgram({"--unknown"}, never)), ::testing::ExitedWithCode(1), "--unknown");
  EXPECT_EXIT(std::exit(RunProgram({"--drain-timeout-s", "-1"}, never)), ::testing::ExitedWithCode(1),
              "program: --drain-timeout-s: '-1' is no whole number");
  EXPECT_EXIT(std::exit(RunProgram({"--drain-timeout-s", "10000000000"}, never)), ::testing::ExitedWithCode(1),
              "program: --drain-timeout-s: '10000000000' is no whole number from 0 to 4294967295");
}

TEST_F(ServerProcessDeathTest, WhatWasAskedForAndIsLostIsAnError) {
  const auto never = [](ServerProcess&) { return absl::InternalError("it ran"); };
  for (const char* flag : {"--help", "--version"}) {
    EXPECT_EXIT(std::exit(RunProgram({flag}, never)), ::testing::ExitedWithCode(0), "");
    EXPECT_EXIT(
        {
          if (std::freopen("/dev/full", "w", stdout) == nullptr) std::abort();
          std::exit(RunProgram({flag}, never));
        },
        ::testing::ExitedWithCode(1), "program: cannot write to standard output: No space left on device");
  }
}

TEST(NodeIdFlagTest, DefaultIdsAreLegalAndDiffer) {
  const std::string id = DefaultNodeId("gpu");
  EXPECT_THAT(id, ::testing::MatchesRegex("gpu-[A-Za-z0-9-]+-[0-9a-f]+"));
  EXPECT_LE(id.size(), 64u);
  EXPECT_NE(DefaultNodeId("gpu") + DefaultNodeId("gpu"), id + id);
}

TEST(NodeIdFlagTest, LengthAndCharactersAreChecked) {
  const auto parse = [](const std::string& id) {
    CLI::App app;
    std::string node_id;
    AddNodeIdFlag(app, &node_id, "");
    try {
      app.parse(std::vector<std::string>{id, "--node-id"});  // CLI11 takes them from the end
    } catch (const CLI::ParseError& error) {
      return std::string(error.what());
    }
    return node_id;
  };
  EXPECT_EQ(parse("gpu-0"), "gpu-0");
  EXPECT_THAT(parse(""), HasSubstr("empty"));
  EXPECT_THAT(parse(std::string(129, 'x')), HasSubstr("129 bytes; at most 128"));
  EXPECT_THAT(parse("a\nb"), HasSubstr("control character"));
  EXPECT_THAT(parse("a\xff"), HasSubstr("not UTF-8"));
}

}  // namespace
}  // namespace tributary
