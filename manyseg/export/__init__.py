"""From a trained model to one file that other programs run: ONNX, or a package of torch.export."""
