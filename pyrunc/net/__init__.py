# SPDX-License-Identifier: Apache-2.0
"""Networks for containers of any OCI runtime: bridges, addresses, NAT and published ports.

    model.py        what a network, a published port and an attachment are; how they are written
    store.py        networks and attachments on disk, and the lock
    ipam.py         which address is whose
    links.py        bridges, veth pairs, macvlan and ipvlan devices, addresses, routes, sysctls
    ruleset.py      the tables of rules, built from the networks; ports.py the elements of a published port
    foreign.py      other tables that drop what ours lets through
    hosts.py        /etc/hosts, /etc/resolv.conf and the host name of a bundle
    networks.py     create, remove, the default network
    attachments.py  attach, detach, reload, prune

Nothing here imports what is dear: attaching is part of starting a container.
"""
