# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend aws with the real modules of amazon.aws, against moto, which implements the API of EC2."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from role import Role

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [Path(sys.executable).with_name("moto_server"), "--host", "127.0.0.1", "--port", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(port: int, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"moto does not listen on port {port}")


class Cloud:
    """An account with one instance, which has a security group of its owner's."""

    def __init__(self, endpoint: str) -> None:
        self.ec2 = boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        self.vpc = self.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        self.owners = self.group("ssh")
        self.ec2.authorize_security_group_ingress(
            GroupId=self.owners, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="198.51.100.0/24"
        )
        self.instance = self.launch(self.owners)

    def launch(self, group: str) -> str:
        """Start an instance with this one group."""
        made = self.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, SecurityGroupIds=[group])
        return made["Instances"][0]["InstanceId"]

    def group(self, name: str) -> str:
        return self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)["GroupId"]

    def _instance(self) -> dict:
        return self.ec2.describe_instances(InstanceIds=[self.instance])["Reservations"][0]["Instances"][0]

    def attached(self) -> list[str]:
        """The names of the groups of the instance."""
        return sorted(group["GroupName"] for group in self._instance()["NetworkInterfaces"][0]["Groups"])

    def address(self) -> str:
        return self._instance()["PublicIpAddress"]

    def groups(self) -> dict[str, str]:
        """The ids of the groups by name."""
        groups = self.ec2.describe_security_groups()["SecurityGroups"]
        return {group["GroupName"]: group["GroupId"] for group in groups if group["GroupName"] != "default"}

    def open_ports(self, name: str) -> set[tuple[str, int, str]]:
        filters = [{"Name": "group-name", "Values": [name]}]
        (group,) = self.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return {
            (rule["IpProtocol"], rule["FromPort"], source)
            for rule in group["IpPermissions"]
            for source in [item["CidrIp"] for item in rule["IpRanges"]]
            + [item["CidrIpv6"] for item in rule["Ipv6Ranges"]]
        }


@pytest.fixture
def cloud(endpoint: str) -> Cloud:
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()  # forgets what other tests made
    return Cloud(endpoint)


@pytest.fixture
def role(tmp_path: Path, endpoint: str, cloud: Cloud) -> Role:
    variables = {
        "port_forward_backend": "aws",
        "port_forward_aws_region": REGION,
        "port_forward_aws_instance_id": cloud.instance,
    }
    return Role(tmp_path, variables, {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint})


def test_the_whole_life(role: Role, cloud: Cloud) -> None:
    assert role.run("--check").changed == 1
    assert list(cloud.groups()) == ["ssh"]

    run = role.run("--diff")
    assert run.changed == 2
    assert cloud.attached() == ["peer-relay-home", "ssh"]
    assert cloud.open_ports("peer-relay-home") == {("udp", 40000, "0.0.0.0/0")}
    assert cloud.open_ports("ssh") == {("tcp", 22, "198.51.100.0/24")}
    assert '+    "group_name": "peer-relay-home"' in run.output
    assert run.result["external_address"] == cloud.address()
    assert run.result["inner_address"] == ""

    assert role.run().changed == 0

    more = [{"name": "https", "protocol": "tcp", "port": 443, "families": ["ipv4", "ipv6"]}]
    assert role.run(port_forward_forwards=more).changed == 1
    assert cloud.open_ports("peer-relay-home") == {("tcp", 443, "0.0.0.0/0"), ("tcp", 443, "::/0")}

    assert role.run(port_forward_state="absent").changed == 2
    assert cloud.attached() == list(cloud.groups()) == ["ssh"]


def test_what_it_refuses(role: Role, cloud: Cloud) -> None:
    cloud.group("peer-relay-home")
    assert "security group peer-relay-home exists and is not this host's" in role.error()
    assert "AWS has no instance i-0123456789abcdef0" in role.error(port_forward_aws_instance_id="i-0123456789abcdef0")


def test_the_last_group_stays(role: Role, cloud: Cloud) -> None:
    own = cloud.group("peer-relay-home")
    cloud.ec2.create_tags(Resources=[own], Tags=[{"Key": "managed_by", "Value": "homelab.peer_relay home"}])
    error = role.error(port_forward_aws_instance_id=cloud.launch(own), port_forward_state="absent")
    assert "has no other security group than peer-relay-home" in error
