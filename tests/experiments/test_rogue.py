"""What the rogue member forges: whether a member's NVE believes it depends on the mechanism only."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from experiments.rogue import sealed
from geneve.control.profile import Profile, SourceProof
from geneve.outer import IPV4_SIZE, internet_checksum
from geneve.security.open import Burst
from geneve.security.signature import SourceSigner
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa
from tests.nve.ipsec.ipsec_support import profile, secured
from tests.support import association, udp_frame

GROUP = "239.60.81.1"
SIGNER = SourceSigner.from_seed(bytes(32))
FRAMES = [udp_frame(data=bytes([number]) * 50) for number in range(3)]


def order(**changes: Any) -> dict[str, Any]:
    return {"vni": 100, "addresses": {"outer_source": "192.168.1.1", "outer_destination": GROUP}, **changes}


@pytest.mark.parametrize("kind", ["esp", "esp-short", "esp-null", "ah"])
def test_with_the_groups_key_a_member_forges_packets_of_another_in_ipsec(kind):
    held = secured(kind, role="multicast"), profile(kind)
    opener = IpsecOpener([InboundSa(*held)])
    for frame, packet in zip(FRAMES, sealed(order(), FRAMES, held, SIGNER), strict=True):
        assert packet[12:20] == bytes((192, 168, 1, 1, 239, 60, 81, 1))
        assert internet_checksum(packet[:IPV4_SIZE]) == 0
        carried = packet if kind == "ah" else packet[IPV4_SIZE:]
        [found] = opener.open_burst(carried, len(carried), packet[12:16], 1.0)
        assert isinstance(found, Burst)
        assert found.frames == [frame]


def test_with_options_the_rogues_own_signature_is_all_it_has():
    owner = base64.b64encode(SourceSigner.from_seed(bytes(range(32))).public_key()).decode()
    made = association(1000, "multicast", audience="group", profile="signed").model_copy(update={"signer": owner})
    signed = Profile(name="signed", source_proof=SourceProof.ED25519)
    packets = sealed(order(), FRAMES, (made, signed), SIGNER)
    assert len(packets) == len(FRAMES)
    for packet in packets:
        assert packet[9] == 17
        assert packet[12:20] == bytes((192, 168, 1, 1, 239, 60, 81, 1))
