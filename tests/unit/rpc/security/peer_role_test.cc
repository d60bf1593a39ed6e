#include "rpc/security/peer_role.h"

#include <set>
#include <string>

#include "gtest/gtest.h"
#include "tributary/v1/coordinator.pb.h"
#include "tributary/v1/cpu_attention.pb.h"

namespace tributary {
namespace {

std::set<std::string> PathsOf(const google::protobuf::FileDescriptor& file) {
  std::set<std::string> paths;
  for (int s = 0; s < file.service_count(); ++s) {
    for (int m = 0; m < file.service(s)->method_count(); ++m) {
      paths.insert("/" + file.service(s)->full_name() + "/" + file.service(s)->method(m)->name());
    }
  }
  return paths;
}

TEST(PeerRoleTest, TheTableHasEveryMethodThatThereIs) {
  std::set<std::string> there = PathsOf(*v1::StatusRequest::descriptor()->file());
  there.merge(PathsOf(*v1::ConnectRequest::descriptor()->file()));
  std::set<std::string> ruled;
  for (const MethodRule& rule : kMethodRules) ruled.emplace(rule.path);
  EXPECT_EQ(ruled, there);
}

TEST(PeerRoleTest, AClientMayAskAndNothingElse) {
  for (const MethodRule& rule : kMethodRules) {
    const bool is_for_clients = rule.path.starts_with("/tributary.v1.Coordinator/");
    EXPECT_EQ(rule.callers.Has(PeerRole::kClient), is_for_clients) << rule.path;
  }
}

TEST(PeerRoleTest, NamesOfRolesAndBack) {
  for (const PeerRole role : kPeerRoles) {
    EXPECT_EQ(PeerRoleFromName(PeerRoleName(role)), role);
    EXPECT_EQ(PeerRoleFromCertificateName(CertificateName(role)), role);
  }
  EXPECT_EQ(CertificateName(PeerRole::kNode), "node.tributary.internal");
  for (const char* name : {"", "node", "*.tributary.internal", "node.tributary.internal.example.com",
                           "a.node.tributary.internal", "Node.tributary.internal", ".tributary.internal"}) {
    EXPECT_EQ(PeerRoleFromCertificateName(name), std::nullopt) << name;
  }
}

TEST(PeerRoleTest, SetsInWords) {
  EXPECT_EQ(ToString(PeerRoles()), "no role");
  EXPECT_EQ(ToString(PeerRoles{PeerRole::kNode, PeerRole::kWorker}), "worker or node");
}

}  // namespace
}  // namespace tributary
