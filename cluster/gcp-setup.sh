#!/usr/bin/env bash
# What gcp.yaml needs to exist: a private network, a bucket, and who may do what.
#
# For whom:  a Google Cloud project that is to run gcp.yaml; once for each project.
# Start:     cluster/gcp-setup.sh create PROJECT
# Cost:      Cloud NAT, about 0.05 USD/h with a handful of machines, and 0.045 USD for each GB through
#            it (list price of 2025, approximate); the bucket costs what lies in it.
# Stop:      cluster/gcp-setup.sh delete PROJECT      (the bucket stays: labels were paid for)
#
# Machines have no public address. They are reached through Identity-Aware Proxy, by whoever the
# project lets, and no port is open to anybody outside of the cluster but IAP's SSH.
set -euo pipefail

if [[ $# -ne 2 || ! $1 =~ ^(create|delete)$ ]]; then
    echo "usage: cluster/gcp-setup.sh create|delete PROJECT" >&2
    exit 2
fi
export CLOUDSDK_CORE_PROJECT=$2
region=us-west1
bucket=gs://raythief-$2
account=raythief@$2.iam.gserviceaccount.com

if [[ $1 == delete ]]; then
    set +e # go on where something is gone already
    gcloud --quiet compute routers delete raythief --region $region
    gcloud --quiet compute firewall-rules delete raythief-inside raythief-iap
    gcloud --quiet compute networks subnets delete raythief --region $region
    gcloud --quiet compute networks delete raythief
    gcloud --quiet iam service-accounts delete "$account"
    exit
fi

gcloud services enable compute.googleapis.com iap.googleapis.com iam.googleapis.com \
    cloudresourcemanager.googleapis.com

gcloud compute networks create raythief --subnet-mode custom
gcloud compute networks subnets create raythief --network raythief --region $region \
    --range 10.60.0.0/20 --enable-private-ip-google-access
gcloud compute routers create raythief --network raythief --region $region
gcloud compute routers nats create raythief --router raythief --region $region \
    --auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges
gcloud compute firewall-rules create raythief-inside --network raythief \
    --source-ranges 10.60.0.0/20 --allow tcp,udp,icmp
# Identity-Aware Proxy comes from here, and lets in whom the project lets in.
gcloud compute firewall-rules create raythief-iap --network raythief \
    --source-ranges 35.235.240.0/20 --allow tcp:22

gcloud storage buckets create "$bucket" --location $region --uniform-bucket-level-access \
    --public-access-prevention
gcloud iam service-accounts create raythief
gcloud storage buckets add-iam-policy-binding "$bucket" --member "serviceAccount:$account" \
    --role roles/storage.objectUser
echo "for --set storage=...: $bucket/raythief"
