"""Datasets that HierVL itself registers in Detectron2: ShapesWorld, CamVid, the paper's benchmarks."""
